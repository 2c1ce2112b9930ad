"""What FusionStatus says of one RGB message, whoever publishes it: the node, or a recording that is fused offline."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fusionproxy_ros.core.frames import NS_PER_S, Mode
from fusionproxy_ros.pipeline.answers import Answer

NAN_UNLESS_KNOWN = (
    "skew_s",
    "clock_offset_s",
    "thermal_age_s",
    "parallax_error_px",
    "misalignment_x_px",
    "misalignment_y_px",
)


@dataclass
class Counts:
    """Messages since configure, or since a recording began. modes: RGB messages by what became of them."""

    received: int = 0
    thermal_received: int = 0
    thermal_refused: int = 0
    modes: Counter[int] = field(default_factory=Counter)


def describe_message(status: Any, header: Any, mode: Mode, reason: str, counts: Counts) -> Any:
    """Fill a blank FusionStatus with what is known of every RGB message; returns it."""
    status.header, status.mode, status.reason = header, int(mode), reason
    for name in NAN_UNLESS_KNOWN:
        setattr(status, name, math.nan)
    status.received = counts.received
    status.fused, status.held = counts.modes[Mode.FUSED], counts.modes[Mode.HELD]
    status.passed = counts.modes[Mode.PASSTHROUGH]
    status.dropped, status.refused = counts.modes[Mode.DROPPED], counts.modes[Mode.REFUSED]
    status.thermal_received, status.thermal_refused = counts.thermal_received, counts.thermal_refused
    return status


def describe_answer(status: Any, answer: Answer, counts: Counts) -> Any:
    """Fill a blank FusionStatus with how a pair was matched, registered and fused; returns it."""
    pair, fused = answer.pair, answer.fused
    describe_message(status, pair.rgb.source.header, fused.mode, fused.reason, counts)
    if answer.current is not None:
        assert pair.thermal is not None
        status.thermal_stamp = pair.thermal.source.header.stamp
        status.skew_s = pair.skew_ns / NS_PER_S
        status.registration_valid_fraction = fused.valid_fraction
        status.thermal_low, status.thermal_high = fused.thermal_range
        status.parallax_error_px = 0.0 if pair.depth else answer.current.parallax_error_px
        status.correction_x_px, status.correction_y_px = answer.current.registration.shift_px
    if pair.thermal_age_ns is not None:
        status.thermal_age_s = pair.thermal_age_ns / NS_PER_S
    status.sync_wait_s = (pair.ready_ns - pair.rgb.arrival_ns) / NS_PER_S
    status.register_s = fused.register_ns / NS_PER_S
    status.normalise_s = fused.normalise_ns / NS_PER_S
    status.student_s = fused.student_ns / NS_PER_S
    return status
