"""Which thermal frame belongs to which RGB frame: time only."""
