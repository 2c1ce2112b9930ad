"""How times are written for a person, and how much of a stranger's text is shown."""

import math

LONGEST_TEXT = 400  # characters of a text that somebody else wrote


def clipped(text: str) -> str:
    """What somebody else wrote, no longer than a page can bear."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def seconds(value_s: float) -> str:
    """A time in the recording: 4.20 s, 1:02.5, 1:00:02.5."""
    if value_s < 60:
        return f"{value_s:.2f} s"
    minutes, rest = divmod(round(value_s, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def duration(value_s: float) -> str:
    """Such as 33 ms or 1.20 s."""
    if not math.isfinite(value_s):
        return "not known"
    return f"{value_s:.2f} s" if abs(value_s) >= 1 else f"{1e3 * value_s:.3g} ms"
