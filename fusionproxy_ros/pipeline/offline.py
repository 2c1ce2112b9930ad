"""The pipeline of one camera pair, driven by the messages of a recording instead of by topics and threads.

Time is the recording's: a message arrives when it was recorded, and a frame waits `deadline_s` of that time for its
thermal frame.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.errors import NotFusedError
from fusionproxy_ros.core.frames import Frame, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pipeline.answers import Answer, Answers, Prepared
from fusionproxy_ros.pipeline.live_registration import CurrentRegistration, LiveRegistration, Lookup
from fusionproxy_ros.pipeline.settings import Settings

MAX_WAITING = 64  # RGB frames that wait for thermal, when the time of recording stands still


class OfflinePipeline:
    """Messages in, in their order; prepared pairs out, in the order of their RGB frames. `finish` in any thread.

    topics: of the RGB and the thermal images. lookup: from TF; None where it is not used.
    """

    def __init__(self, settings: Settings, topics: tuple[str, str], lookup: Lookup | None):
        self._by_tf = settings.registration.extrinsics_source == "tf"
        self._registration = LiveRegistration(settings, topics, lookup if self._by_tf else None, offline=True)
        self.student = Path(settings.student.path or DEFAULT_STUDENT)
        fuser = Fuser(read_weights(self.student), settings.gain, settings.student.device, threads=1)
        by_depth = settings.registration.mode == "depth"
        self._answers = Answers(self._current, lambda: nullcontext(fuser), by_depth)
        self._sync = NearestSync(settings.sync)
        self._waiting = 0
        self._last_ns = 0

    def pass_time(self, now_ns: int) -> Iterator[Prepared]:
        """What is decided because its deadline passed before `now_ns`, or because too much waits."""
        self._last_ns = max(self._last_ns, now_ns)
        too_many = self._waiting > MAX_WAITING
        while (due_ns := self._sync.next_deadline_ns) is not None and (due_ns < now_ns or too_many):
            yield from self._prepared(self._sync.poll(due_ns))

    def add_rgb(self, msg: Any, now_ns: int) -> tuple[Frame, list[Prepared]]:
        """The frame that waits for its answer now, and what is decided. Raises MessageError where none can be made."""
        frame, reason = image_messages.take_rgb(msg, now_ns)
        self._waiting += 1
        return frame, self._prepared(self._sync.add_rgb(frame, reason))

    def add_thermal(self, msg: Any, now_ns: int) -> list[Prepared]:
        """What is decided by it. Raises MessageError."""
        frame = image_messages.read_thermal(msg, now_ns)
        return self._prepared(self._sync.add_thermal(frame, self._sync.why_not_live(frame)))

    def add_depth(self, msg: Any, now_ns: int) -> None:
        """It decides nothing. Raises MessageError."""
        self._sync.add_depth(image_messages.read_depth(msg, now_ns))

    def set_camera_info(self, name: str, msg: Any) -> None:
        """A CameraInfo of "rgb" or "thermal"."""
        self._registration.set_camera_info(name, msg)

    def end(self) -> list[Prepared]:
        """Nothing more comes."""
        return self._prepared(self._sync.reset(self._last_ns))

    def finish(self, prepared: Prepared) -> Answer:
        """The answer without its measured times: what is made of a recording must not depend on a machine's clock."""
        answer = self._answers.finish(prepared)
        return replace(answer, fused=replace(answer.fused, register_ns=0, normalise_ns=0, student_ns=0))

    def _prepared(self, pairs: list[Pair]) -> list[Prepared]:
        self._waiting -= len(pairs)
        return [self._answers.prepare(pair) for pair in pairs]

    def _current(self, pair: Pair) -> CurrentRegistration:
        try:
            return self._registration.current(pair)
        except NotFusedError:
            if not self._by_tf:
                raise
            self._registration.follow_transforms()  # it has just learnt the frames' names
            return self._registration.current(pair)
