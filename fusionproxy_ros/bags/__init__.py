"""Recordings: read, salvaged, made, fused, replayed."""
