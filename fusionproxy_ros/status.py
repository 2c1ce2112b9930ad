"""What FusionStatus says of one answered pair, whoever publishes it: the node, or a recording that is fused offline."""

import math

from fusionproxy_ros.frames import NS_PER_S, Fused, Mode, Pair
from fusionproxy_ros.rig import View

# FusionStatus.mode of RGB messages that got no output; the other modes are frames.Mode.
REFUSED, DROPPED = 3, 4
NO_DEPTH = "no depth image within registration.depth_tolerance_s: thermal lies on the plane"
UNKNOWN_UNLESS_SAID = (
    "skew_s",
    "clock_offset_s",
    "thermal_age_s",
    "parallax_error_px",
    "misalignment_x_px",
    "misalignment_y_px",
)


def begin(status, header, mode: int, reason: str):
    """Fill a blank FusionStatus with what is known of every RGB message; returns it."""
    status.header, status.mode, status.reason = header, int(mode), reason
    for name in UNKNOWN_UNLESS_SAID:
        setattr(status, name, math.nan)
    return status


def describe(status, pair: Pair, fused: Fused, view: View | None):
    """Add how the pair was matched, registered and fused to a status from `begin`; returns it.

    view: how its thermal image was registered; None without one.
    """
    if fused.mode is not Mode.PASSTHROUGH:
        status.thermal_stamp = pair.thermal.source.header.stamp
        status.skew_s = pair.skew_ns / NS_PER_S
        status.registration_valid_fraction = fused.valid_fraction
        status.thermal_low, status.thermal_high = fused.thermal_range
        status.parallax_error_px = 0.0 if pair.depth else view.parallax_error_px
        status.correction_x_px, status.correction_y_px = view.registration.shift_px
    if pair.thermal_age_ns is not None:
        status.thermal_age_s = pair.thermal_age_ns / NS_PER_S
    status.sync_wait_s = (pair.ready_ns - pair.rgb.arrival_ns) / NS_PER_S
    status.register_s = fused.register_ns / NS_PER_S
    status.normalise_s = fused.normalise_ns / NS_PER_S
    status.student_s = fused.student_ns / NS_PER_S
    return status
