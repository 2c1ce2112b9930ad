"""Every pair is answered, with a mode and a reason: the same for the node, recordings and folders."""
