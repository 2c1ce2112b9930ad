"""Recordings: read, fused, made, replayed and judged. What the node does without is imported here."""

from fusionproxy_ros.frames import FusionError


class BagError(FusionError):
    """A recording that cannot be used. The message names the cause and the cure."""


try:
    import mcap  # noqa: F401
    import rosbags  # noqa: F401
except ImportError as error:
    raise BagError(f"recordings need two libraries ({error}): pip install rosbags mcap") from None

try:
    from compression import zstd
except ImportError:  # before Python 3.14; rosbags brings it
    from backports import zstd  # noqa: F401
