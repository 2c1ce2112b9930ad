"""Whether thermal really lies on RGB, read from the pictures alone."""
