"""The `fusionproxy` command: one file for each sub-command, its arguments beside its work."""
