"""Types of command-line arguments."""

import argparse


def positive(text: str) -> float:
    """A finite number above 0; argparse tells the user when it is not."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
