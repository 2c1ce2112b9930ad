"""From a recording to the messages of its fused frames: what the pipeline is fed with, and what is made of its answers.

What is decided for a frame is pipeline/answers.py's; here are only order and bytes.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from fusionproxy_ros.bags.camera_topics import CAMERA_INFO, IMAGE, CameraTopics, first_of
from fusionproxy_ros.bags.recording import STATUS, Message, Recording, Topic
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.bags.writing import image_message
from fusionproxy_ros.core.errors import FusionError, RegistrationError
from fusionproxy_ros.core.frames import Frame, Mode
from fusionproxy_ros.core.image_messages import MessageError
from fusionproxy_ros.core.pictures import overlay
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.geometry.static_transforms import TF_STATIC, StaticTransforms
from fusionproxy_ros.pipeline.answers import Answer, Prepared
from fusionproxy_ros.pipeline.offline import OfflinePipeline
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.pipeline.status import Counts, describe_answer, describe_message

Messages = list[tuple[str, bytes]]  # (topic, bytes)
OUTPUTS = {
    "image": Topic("/fused/image", IMAGE),
    "camera_info": Topic("/fused/camera_info", CAMERA_INFO),
    "status": Topic("/fused/status", STATUS),
}
DEBUG_OUTPUTS = {
    "thermal": Topic("/fusion/debug/thermal_registered", IMAGE),
    "overlay": Topic("/fusion/debug/overlay", IMAGE),
}


class FusedMessages:
    """Writes answers as messages of rosbags' typestore `types`. Without state: any thread may use it."""

    def __init__(self, types: Any, debug_images: bool):
        self._types, self._debug_images = types, debug_images
        self.topics = OUTPUTS | (DEBUG_OUTPUTS if debug_images else {})

    def count(self, is_fused: bool, has_info: bool) -> int:
        """How many messages `of_answer` will make."""
        return 2 + has_info + (2 if is_fused and self._debug_images else 0)

    def of_answer(self, answer: Answer, raw: bytes, info: Any, counts: Counts) -> Messages:
        """(topic, bytes) of each message. raw: the RGB message's. info: the RGB camera's CameraInfo, or None."""
        rgb, fused = answer.pair.rgb, answer.fused
        header, is_raw_image = rgb.source.header, getattr(rgb.source, "encoding", None) == rgb.encoding
        status = describe_answer(self._blank_status(), answer, counts)
        status.total_s = status.sync_wait_s
        if fused.pixels is rgb.pixels and is_raw_image:
            made = [(self.topics["image"].name, raw)]
        else:
            made = [self._serialised("image", self._image(header, fused.pixels, rgb.encoding))]
        if info is not None:
            made.append(self._serialised("camera_info", replace(info, header=header)))
        made.append(self._serialised("status", status))
        if self._debug_images and fused.thermal is not None:
            made.append(self._serialised("thermal", self._image(header, fused.thermal, "mono8")))
            picture = overlay(rgb, fused.thermal)
            made.append(self._serialised("overlay", self._image(header, picture, rgb.encoding)))
        return made

    def of_refusal(self, header: Any, reason: str, counts: Counts) -> Messages:
        """The status of an RGB message that cannot be read."""
        status = describe_message(self._blank_status(), header, Mode.REFUSED, reason, counts)
        return [self._serialised("status", status)]

    def _image(self, header: Any, pixels: Any, encoding: str) -> Any:
        return image_message(self._types, header, pixels, encoding)

    def _serialised(self, output: str, msg: Any) -> tuple[str, bytes]:
        topic = self.topics[output]
        return topic.name, bytes(self._types.serialize_cdr(msg, topic.type))

    def _blank_status(self) -> Any:
        kind = self._types.types[STATUS]
        known = {
            "header": None,
            "reason": "",
            "thermal_stamp": self._types.types["builtin_interfaces/msg/Time"](0, 0),
        }
        return kind(**{f.name: known.get(f.name, 0) for f in fields(kind)})


@dataclass(eq=False)
class Entry:
    """What one message of the recording gives, in the place that it had there.

    count: messages that it gives. make: makes (topic, bytes) of each; slow for a frame that is fused, and None until
    that is decided. made: what it makes, in another thread.
    """

    log_ns: int
    is_frame: bool = False
    count: int = 1
    make: Callable[[], Any] | None = None
    made: Future | None = None

    def result(self) -> Messages:
        """Its messages; waits where another thread makes them."""
        assert self.make is not None
        return self.made.result() if self.made else self.make()


def nothing() -> Messages:
    """What a message gives that cannot be read, or that an earlier run has written."""
    return []


class FusedFrames:
    """Feeds a recording to the pipeline and keeps each frame's place until it is decided. Of one thread, but for what
    the entries make."""

    def __init__(self, recording: Recording, cameras: CameraTopics, settings: Settings | None):
        if settings is None or settings.registration.mode != "depth":
            cameras = replace(cameras, depth=None)
        self.cameras, self._recording = cameras, recording
        transforms = StaticTransforms()
        for message in recording.messages([TF_STATIC]) if TF_STATIC in recording.topics else ():
            transforms.add(recording.decode(message))
        info_topics = {"rgb": cameras.rgb_info, "thermal": cameras.thermal_info}
        infos = {
            name: first_of(recording, topic, lambda msg: msg) for name, topic in info_topics.items() if topic
        }
        self.registration, settings = self._settings(settings, infos, transforms)
        if settings.sync.policy != "nearest":
            raise BagError(
                f"sync_policy is {settings.sync.policy}, which only the live node has: set it to nearest"
            )
        self._pipeline = OfflinePipeline(settings, (cameras.rgb, cameras.thermal), transforms.lookup)
        for name, info in infos.items():
            if info is not None:
                self._pipeline.set_camera_info(name, info)
        student = hashlib.sha256(self._pipeline.student.read_bytes()).hexdigest()
        self.identity = [repr(settings), student, repr(cameras)]
        self.messages = FusedMessages(recording.types, settings.topics.debug_images)
        self._rgb_info = infos.get("rgb")
        self.counts, self.reasons = Counts(), Counter[str]()
        self._undecided: dict[Frame, tuple[Entry, Message]] = {}

    def _settings(
        self, given: Settings | None, infos: dict, transforms: StaticTransforms
    ) -> tuple[str, Settings]:
        """How the cameras are registered, in words, and the settings that say so."""
        if given:
            return given.registration.mode, given
        frames = [
            first_of(self._recording, topic, lambda msg: msg.header.frame_id)
            for topic in (self.cameras.rgb, self.cameras.thermal)
        ]
        try:
            if not all(info is not None and info.k[0] for info in map(infos.get, ("rgb", "thermal"))):
                raise RegistrationError("the recording has no calibrated camera_info of both cameras")
            if None in frames:
                raise RegistrationError("the recording has no readable image of one of the cameras")
            transforms.lookup(*map(str, frames))
        except RegistrationError as error:
            return f"identity ({error})", Settings()
        by_tf = RegistrationSettings(mode="extrinsic", extrinsics_source="tf")
        return f"extrinsic, by camera_info and {TF_STATIC}", Settings(registration=by_tf)

    def entries(self, others: set[str]) -> Iterator[Entry]:
        """In the order of the recording: the frames, and messages of `others` as they are."""
        cameras = self.cameras
        waiting: deque[Entry] = deque()  # from the first frame that is undecided on
        of_cameras = cameras.rgb, cameras.thermal, cameras.depth, cameras.rgb_info, cameras.thermal_info
        used = {topic for topic in of_cameras if topic is not None}
        for message in self._recording.messages(used | others):
            self._decide(self._pipeline.pass_time(message.log_ns))
            name = message.topic.name
            if name in others:
                waiting.append(Entry(message.log_ns, make=partial(list, [(name, message.data)])))
            if name == cameras.rgb:
                waiting.append(Entry(message.log_ns, is_frame=True))
            if name in used:
                try:
                    self._enter(message, waiting[-1] if name == cameras.rgb else None)
                except FusionError as error:
                    self.reasons[f"{name}: {error}"] += 1
            while waiting and waiting[0].make:
                yield waiting.popleft()
        self._decide(self._pipeline.end())
        yield from waiting

    def _enter(self, message: Message, entry: Entry | None) -> None:
        """One message of the cameras. entry: the place of an RGB frame."""
        cameras, name, now_ns = self.cameras, message.topic.name, message.log_ns
        if entry is not None:
            self._enter_rgb(message, entry)
        elif name == cameras.rgb_info:
            self._rgb_info = self._recording.decode(message)
            self._pipeline.set_camera_info("rgb", self._rgb_info)
        elif name == cameras.thermal_info:
            self._pipeline.set_camera_info("thermal", self._recording.decode(message))
        elif name == cameras.depth:
            self._pipeline.add_depth(self._recording.decode(message), now_ns)
        else:
            msg = self._recording.decode(message)
            self.counts.thermal_received += 1
            try:
                self._decide(self._pipeline.add_thermal(msg, now_ns))
            except MessageError:
                self.counts.thermal_refused += 1
                raise

    def _enter_rgb(self, message: Message, entry: Entry) -> None:
        try:
            msg = self._recording.decode(message)
        except BagError:  # nobody can say what it was
            entry.make, entry.count, entry.is_frame = nothing, 0, False
            raise
        try:
            frame, decided = self._pipeline.add_rgb(msg, message.log_ns)
        except MessageError as error:
            counts = self._counted(Mode.REFUSED, str(error))
            entry.make = partial(self.messages.of_refusal, msg.header, str(error), counts)
            return
        self._undecided[frame] = entry, message
        self._decide(decided)

    def _decide(self, decided: Iterable[Prepared]) -> None:
        """Say how the frames' messages are made."""
        for prepared in decided:
            entry, message = self._undecided.pop(prepared.pair.rgb)
            counts = self._counted(prepared.mode, prepared.reason)
            entry.count = self.messages.count(prepared.thermal is not None, self._rgb_info is not None)
            entry.make = partial(self._made, prepared, message, self._rgb_info, counts)

    def _made(self, prepared: Prepared, message: Message, info: Any, counts: Counts) -> Messages:
        """Messages that a frame gives. Runs in any thread, in any order."""
        return self.messages.of_answer(self._pipeline.finish(prepared), message.data, info, counts)

    def _counted(self, mode: Mode, reason: str) -> Counts:
        """Counts with this RGB message, as they are now."""
        self.counts.received += 1
        self.counts.modes[mode] += 1
        if reason:
            self.reasons[reason] += 1
        return replace(self.counts, modes=self.counts.modes.copy())
