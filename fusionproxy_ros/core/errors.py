"""The errors that this package raises on purpose."""


class FusionError(Exception):
    """Base of every error this package raises on purpose. The message names the cause and the cure."""


class NotFusedError(FusionError):
    """Thermal cannot be used for this frame. The message is the reason that users see."""


class RegistrationError(NotFusedError):
    """The thermal image cannot be moved onto the RGB grid. The message names the cause and the cure."""


def shown(text: str) -> str:
    """What somebody else wrote, as a reason or a log may show it: one short line without control characters."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")[1:-1]
