"""The parameters of pairing."""

from dataclasses import dataclass
from functools import cached_property

from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.parameter_declaration import parameter


def _in_ns(name: str) -> "cached_property[int]":
    """The field `name`, seconds, as integer nanoseconds; worked out once, since every frame asks."""
    return cached_property(lambda settings: round(getattr(settings, name) * NS_PER_S))


@dataclass(frozen=True)
class SyncSettings:
    """Pairing. Each RGB frame gets the thermal frame nearest to its stamp + thermal_time_offset_s. It waits for that
    until a later thermal frame or the deadline comes, so a slow thermal camera costs latency: with deadline_s 0.0 and
    sync_tolerance_s at the thermal period every frame is answered at once with the newest thermal frame.

    Seconds as users give them; the properties are the same in integer nanoseconds.
    """

    policy: str = parameter(
        "sync_policy",
        "nearest",
        "nearest is ours; the others let ROS's message_filters choose the pairs, where it is installed.",
        choices=("nearest", "approximate_time", "exact_time"),
    )
    tolerance_s: float = parameter(
        "sync_tolerance_s",
        0.06,
        "Largest |skew| in s of a FUSED pair; 0.06 accepts the nearest frame of a 9 Hz thermal camera.",
        limits=(0.0, 1.0),
        live=True,
    )
    deadline_s: float = parameter(
        "deadline_s",
        0.04,
        "How long in s an RGB frame waits for its thermal frame before it is answered without.",
        limits=(0.0, 1.0),
        live=True,
    )
    max_hold_s: float = parameter(
        "max_hold_s",
        0.5,
        "Age in s up to which the last thermal frame is HELD.",
        limits=(0.0, 10.0),
        live=True,
    )
    thermal_time_offset_s: float = parameter(
        "thermal_time_offset_s",
        0.0,
        "Added in s to RGB stamps to get the thermal clock: positive when thermal stamps are late.",
        limits=(-1e6, 1e6),
        live=True,
    )
    frozen_after_s: float = parameter(
        "frozen_after_s",
        0.2,
        "Thermal that repeats itself bit for bit for longer, in s, or is flat, counts as missing; 0 accepts all.",
        limits=(0.0, 10.0),
        live=True,
    )
    max_latency_s: float = parameter(
        "max_latency_s",
        0.2,
        "Overload: a frame this old in s is skipped, and counted, when a newer one is ready. Fusing that takes "
        "a quarter of it and thrice the usual (at the start: half of it) stalls: RGB passes.",
        limits=(0.01, 10.0),
        live=True,
    )
    depth_tolerance_s: float = parameter(
        "registration.depth_tolerance_s",
        0.1,
        "Largest distance in s between a depth image and the RGB frame; without one the plane is used.",
        limits=(0.0, 10.0),
        live=True,
    )

    tolerance_ns = _in_ns("tolerance_s")
    deadline_ns = _in_ns("deadline_s")
    max_hold_ns = _in_ns("max_hold_s")
    thermal_time_offset_ns = _in_ns("thermal_time_offset_s")
    frozen_after_ns = _in_ns("frozen_after_s")
    max_latency_ns = _in_ns("max_latency_s")
    depth_tolerance_ns = _in_ns("depth_tolerance_s")
