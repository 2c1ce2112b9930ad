"""How the cameras sit, from a board or from scenes."""
