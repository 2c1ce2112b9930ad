"""The statuses of a recording as arrays, and what follows from them for each frame."""

import re
from array import array
from dataclasses import dataclass

import numpy as np

from fusionproxy_ros.bags.recording import STATUS, Recording
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.core.frames import MODES, NS_PER_S, Mode
from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.report.wording import clipped

DISTINCT_REASONS = 200  # further ones are counted as one
LARGEST = 1e12  # a larger value, of whatever, is taken as not known
INTEGERS = ("log_ns", "stamp_ns", "thermal_ns", "handled", "mode", "reason")
VALUES = (
    *("skew_s", "clock_offset_s", "registration_valid_fraction", "parallax_error_px"),
    *("misalignment_x_px", "misalignment_y_px", "thermal_low", "thermal_high", "sync_wait_s", "queue_s"),
    *("register_s", "normalise_s", "student_s", "publish_s", "total_s"),
)
COUNTERS = ("fused", "held", "passed", "dropped", "refused")
STAGE_TIMES = ("queue_s", "register_s", "normalise_s", "student_s", "publish_s")


@dataclass(frozen=True, eq=False)
class Statuses:
    """Every readable FusionStatus in order of log time: of each field an (N,) array, those of VALUES by [name].

    handled: frames that the node had dealt with so far. reason: index into `reasons`, without figures where these vary.
    thermal_refused: messages, as the last status says. unreadable: how many statuses could not be decoded.
    """

    log_ns: np.ndarray
    stamp_ns: np.ndarray
    thermal_ns: np.ndarray
    handled: np.ndarray
    mode: np.ndarray
    reason: np.ndarray
    values: dict[str, np.ndarray]
    reasons: list[str]
    thermal_refused: int
    unreadable: int

    def __len__(self) -> int:
        return self.log_ns.size

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    def text(self, index: int) -> str:
        """The reason of a frame."""
        return self.reasons[self.reason[index]]

    @property
    def shares(self) -> dict[str, int]:
        """Name of a mode -> frames."""
        return dict(zip(MODES, np.bincount(self.mode, minlength=len(MODES)).tolist(), strict=True))

    @property
    def answered(self) -> np.ndarray:
        """Indices of frames that have an output."""
        return np.flatnonzero(self.mode <= Mode.PASSTHROUGH)

    @property
    def with_thermal(self) -> np.ndarray:
        """Indices of frames that are FUSED or HELD."""
        return np.flatnonzero(self.mode <= Mode.HELD)

    @property
    def is_live(self) -> bool:
        """Whether the node ran during the recording; fuse-bag leaves what only a clock on the wall tells at 0."""
        return any((self[name][self.answered] > 0).any() for name in STAGE_TIMES)

    @property
    def gaps_s(self) -> np.ndarray:
        """Between outputs that follow each other, as recorded."""
        return np.diff(self.log_ns[self.answered]) / NS_PER_S

    @property
    def fused_skew_s(self) -> np.ndarray:
        """(N,): NaN where the frame is not FUSED; a held one is old by design."""
        return np.where(self.mode == Mode.FUSED, self["skew_s"], np.nan)

    @property
    def shift_px(self) -> np.ndarray:
        """(N,): how far thermal lies off RGB; NaN without an estimate."""
        return np.hypot(self["misalignment_x_px"], self["misalignment_y_px"])


def status_topics(recording: Recording) -> list[str]:
    """Topics of statuses, the fullest first. Raises BagError where there is none."""
    found = [topic for topic in recording.topics.values() if topic.type == STATUS]
    if not found:
        raise BagError(
            f"{recording.path}: no topic of type {STATUS}: run fusionproxy fuse-bag on it first, or record "
            "fused/status, fused/image and both cameras"
        )
    return [topic.name for topic in sorted(found, key=lambda topic: (-topic.count, topic.name))]


def read_statuses(recording: Recording, topic: str) -> Statuses:
    """All of one topic. Raises BagError where none can be read."""
    integers, values, reasons = array("q"), array("f"), _Reasons()
    last, unreadable = None, 0
    for message in recording.messages([topic]):
        try:
            status = recording.decode(message)
            stamps = [stamp_to_ns(s) for s in (status.header.stamp, status.thermal_stamp)]
            handled = sum(getattr(status, name) for name in COUNTERS) % 2**62
            MODES[status.mode]  # is there such a mode?
            row = [getattr(status, name) for name in VALUES]
        except (BagError, AttributeError, IndexError) as error:  # of another version, too
            last_error, unreadable = error, unreadable + 1
            continue
        integers.extend((message.log_ns, *stamps, handled, status.mode, reasons.number(status.reason)))
        values.extend(row)
        last = status
    if last is None:
        why = f"none of its {unreadable} messages can be read ({last_error})" if unreadable else "it is empty"
        raise BagError(f"{recording.path}: {topic}: {why}: record it again, or run fusionproxy fuse-bag")
    table = np.frombuffer(integers, np.int64).reshape(-1, len(INTEGERS))
    order = np.argsort(table[:, 0], kind="stable")
    floats = np.frombuffer(values, np.float32).reshape(-1, len(VALUES))[order].T
    floats[~(np.abs(floats) < LARGEST)] = np.nan
    return Statuses(
        **dict(zip(INTEGERS, np.ascontiguousarray(table[order].T), strict=True)),
        values=dict(zip(VALUES, floats, strict=True)),
        reasons=reasons.texts,
        thermal_refused=last.thermal_refused,
        unreadable=unreadable,
    )


class _Reasons:
    """Numbers reasons; those that differ in figures alone share one, and lose the figures."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        text = clipped(reason)
        alike = re.sub(r"\d+(\.\d+)?", "…", text)
        if alike not in self._numbers and len(self.texts) >= DISTINCT_REASONS:
            text = alike = "other reasons"
        number = self._numbers.setdefault(alike, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        elif self.texts[number] != text:
            self.texts[number] = alike
        return number
