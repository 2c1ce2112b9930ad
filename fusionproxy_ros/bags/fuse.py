"""Fuses a recording: every RGB frame gets what the live node would have published, were it as fast as it need be.

Time is the recording's: a message arrives when it was recorded, and a frame waits `deadline_s` of that time for its
thermal frame. Messages are read, paired, registered and normalised in order; students run in threads; what they answer
is written in order.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from fusionproxy_ros import messages
from fusionproxy_ros.bags import BagError
from fusionproxy_ros.bags.recording import STATUS, Message, Recording, Topic
from fusionproxy_ros.bags.topics import CAMERA_INFO, IMAGE, Cameras, choose, first, fused_topics
from fusionproxy_ros.bags.transforms import TF_STATIC, StaticTransforms
from fusionproxy_ros.bags.writing import BagWriter, image_message
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.frames import MODES, NS_PER_S, FusionError, Mode, Pair, RegistrationError
from fusionproxy_ros.fuser import Fuser, Prepared, overlay
from fusionproxy_ros.memory import keep_freed_memory
from fusionproxy_ros.parameters import Parameters
from fusionproxy_ros.rig import Rig, View
from fusionproxy_ros.status import NO_DEPTH, REFUSED, begin, describe
from fusionproxy_ros.sync import NearestSync

OUTPUTS = {
    "image": Topic("/fused/image", IMAGE),
    "camera_info": Topic("/fused/camera_info", CAMERA_INFO),
    "status": Topic("/fused/status", STATUS),
}
DEBUG_OUTPUTS = {
    "thermal": Topic("/fusion/debug/thermal_registered", IMAGE),
    "overlay": Topic("/fusion/debug/overlay", IMAGE),
}
MAX_WAITING = 64  # RGB frames that wait for thermal, when the time of recording stands still
MAX_REASONS = 5  # that the summary names


@dataclass(frozen=True, eq=False)
class Summary:
    """What came of one recording. modes: frames by the name of their mode. reasons: frames by what was missing."""

    out: Path
    modes: Counter
    reasons: Counter
    damage: tuple
    seconds: float
    recorded_s: float
    registration: str

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        frames = self.modes.total()
        yield f"{self.out}: {frames} frames, " + ", ".join(f"{n} {name}" for name, n in self.modes.items())
        yield f"  registration: {self.registration}"
        for reason, count in self.reasons.most_common(MAX_REASONS):
            yield f"  {count} frames: {reason}"
        if self.seconds and frames:
            yield (
                f"  {frames / self.seconds:.1f} frames/s, {self.recorded_s / self.seconds:.2f} x as fast as recorded"
            )
        for damage in self.damage:
            yield f"  damaged: {damage}"


def fuse_bag(
    path: Path,
    out: Path,
    settings: Parameters | None = None,
    rgb_topic: str | None = None,
    thermal_topic: str | None = None,
    copy: bool = False,
    storage: str | None = None,
    compression: str = "none",
    workers: int = 2,
    **writing,
) -> Summary:
    """Fuse one recording into another, `out`; goes on where an earlier run was killed.

    settings: the node's parameters; no misalignment is estimated here, so refine_max_px corrects none. None: the
        defaults, and registration by the recording's camera_info and tf_static where it has both for these cameras.
    copy: all other topics too, their bytes unchanged, but for what a node had fused before.
    storage: "mcap" or "sqlite3"; as the input's if not given.
    workers: students that run side by side. The result does not depend on it.

    Raises BagError.
    """
    start_s = time.monotonic()
    keep_freed_memory()
    with Recording(path) as recording:
        cameras = choose(recording, rgb_topic, thermal_topic)
        core = Core(recording, cameras, settings)
        storage = storage or recording.storage
        others = set(recording.topics) - fused_topics(recording) if copy else set()
        topics = [*core.outputs.values(), *(recording.topics[name] for name in sorted(others))]
        depends = {"recording": _identity(recording), "fusion": core.identity, "copied": sorted(others)}
        with (
            BagWriter(out, storage, compression, topics, core.types, depends, **writing) as writer,
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=recording.topics[cameras.rgb].count, desc=path.name, unit="frame") as progress,
        ):
            for entry in _in_order(core.run(others), pool, writer.done, 2 * workers):
                for name, data in entry.result():
                    writer.write(name, entry.log_ns, data)
                writer.may_part()
                progress.update(entry.is_frame)
            writer.finish()
        return Summary(
            out,
            core.modes,
            core.reasons,
            tuple(recording.damage),
            time.monotonic() - start_s,
            (recording.end_ns - recording.start_ns) / NS_PER_S,
            core.registration,
        )


@dataclass(eq=False)
class Entry:
    """What one message of the recording gives, in the place that it had there.

    count: messages that it gives. make: makes (topic, bytes) of each; slow for a frame that is fused.
    made: what it makes, in another thread.
    """

    log_ns: int
    is_frame: bool = False
    count: int = 1
    make: Callable[[], list[tuple[str, bytes]]] | None = None
    made: Future | None = None

    def result(self) -> list[tuple[str, bytes]]:
        return self.made.result() if self.made else self.make()


def _in_order(entries: Iterator[Entry], pool: ThreadPoolExecutor, done: int, ahead: int) -> Iterator[Entry]:
    """Frames are made in the pool, at most `ahead` of them in advance; the first `done` messages are not made again."""
    queue: deque[Entry] = deque()
    running = 0
    for entry in entries:
        if done:  # by an earlier run
            done -= entry.count
            entry.make = list
        elif entry.is_frame:
            entry.made = pool.submit(entry.make)
            running += 1
        queue.append(entry)
        while queue and (running > ahead or queue[0].made is None or queue[0].made.done()):
            running -= queue[0].made is not None
            yield queue.popleft()
    yield from queue


class Core:
    """The node's parts, driven by a recording."""

    def __init__(self, recording: Recording, cameras: Cameras, settings: Parameters | None):
        if settings is None or settings.registration_mode != "depth":
            cameras = replace(cameras, depth=None)
        self._recording, self._cameras = recording, cameras
        self._transforms = StaticTransforms()
        if TF_STATIC in recording.topics:
            for message in recording.messages([TF_STATIC]):
                self._transforms.add(recording.decode(message))
        self._infos = {
            name: first(recording, topic, lambda msg: msg)
            for name, topic in (("rgb", cameras.rgb_info), ("thermal", cameras.thermal_info))
            if topic
        }
        self.registration, self._p = self._settings(settings)
        p = self._p
        if p.sync_policy != "nearest":
            raise BagError(f"sync_policy is {p.sync_policy}, which only the live node has: set it to nearest")
        student = Path(p.student_path or DEFAULT_STUDENT)
        self._fuser = Fuser(read_weights(student), p.normalisation_config(), p.device, threads=1)
        self.identity = [repr(p), hashlib.sha256(student.read_bytes()).hexdigest(), repr(cameras)]
        self._sync = NearestSync(p.sync_config())
        lookup = self._transforms.lookup if p.extrinsics_source == "tf" else None
        self._rig = Rig(p, (cameras.rgb, cameras.thermal), lookup, offline=True)
        for name, info in self._infos.items():
            if info is not None:
                self._rig.set_camera_info(name, info)
        self.types = recording.types
        self.outputs = OUTPUTS | (DEBUG_OUTPUTS if p.debug_images else {})
        self.modes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._thermal_received = self._thermal_refused = 0

    def _settings(self, settings: Parameters | None) -> tuple[str, Parameters]:
        """How the cameras are registered, in words, and the parameters that say so."""
        if settings:
            return settings.registration_mode, settings
        frames = [
            first(self._recording, topic, lambda msg: msg.header.frame_id)
            for topic in (self._cameras.rgb, self._cameras.thermal)
        ]
        try:
            if not all(info is not None and info.k[0] for info in map(self._infos.get, ("rgb", "thermal"))):
                raise RegistrationError("the recording has no calibrated camera_info of both cameras")
            self._transforms.lookup(*frames)
        except RegistrationError as error:
            return f"identity ({error})", Parameters()
        words = f"extrinsic, by camera_info and {TF_STATIC}"
        return words, Parameters(registration_mode="extrinsic", extrinsics_source="tf")

    def run(self, others: set[str]) -> Iterator[Entry]:
        """Entries in the order of the recording: the frames, and messages of `others` as they are."""
        cameras = self._cameras
        waiting: deque[Entry] = deque()  # from the first frame that is undecided on
        undecided: deque[tuple[Entry, Message]] = deque()
        used = {cameras.rgb, cameras.thermal, cameras.depth, cameras.rgb_info, cameras.thermal_info} - {None}
        last_ns = 0
        for message in self._recording.messages(used | others):
            last_ns = max(last_ns, message.log_ns)
            pairs = []
            while self._sync.next_deadline_ns is not None and (
                self._sync.next_deadline_ns < message.log_ns or len(undecided) > MAX_WAITING
            ):
                pairs += self._sync.poll(self._sync.next_deadline_ns)
            self._decide(pairs, undecided)
            name, pairs = message.topic.name, []
            if name in others:
                waiting.append(Entry(message.log_ns, make=partial(_copy, message)))
            try:
                if name == cameras.rgb:
                    waiting.append(Entry(message.log_ns, is_frame=True))
                    pairs = self._enter_rgb(message, waiting[-1], undecided)
                elif name in used:
                    pairs = self._enter(message)
            except FusionError as error:
                self.reasons[f"{name}: {error}"] += 1
            self._decide(pairs, undecided)
            while waiting and waiting[0].make:
                yield waiting.popleft()
        self._decide(self._sync.reset(last_ns), undecided)
        yield from waiting

    def _enter_rgb(self, message: Message, entry: Entry, undecided: deque) -> list[Pair]:
        try:
            msg = self._recording.decode(message)
        except BagError:  # nobody can say what it was
            entry.make, entry.count, entry.is_frame = list, 0, False
            raise
        try:
            frame, reason = messages.take_rgb(msg, message.log_ns)
        except messages.MessageError as error:
            self._count(REFUSED, str(error))
            status = self._status(begin(self._blank_status(), msg.header, REFUSED, str(error)))
            entry.make = partial(self._serialised, [("status", status)])
            return []
        undecided.append((entry, message))
        return self._sync.add_rgb(frame, reason)

    def _enter(self, message: Message) -> list[Pair]:
        """A thermal or depth image, or a camera_info."""
        cameras, name = self._cameras, message.topic.name
        msg = self._recording.decode(message)
        if name == cameras.rgb_info:
            self._infos["rgb"] = msg
            self._rig.set_camera_info("rgb", msg)
        elif name == cameras.thermal_info:
            self._rig.set_camera_info("thermal", msg)
        elif name == cameras.depth:
            self._sync.add_depth(messages.read_depth(msg, message.log_ns))
        else:
            self._thermal_received += 1
            try:
                return self._sync.add_thermal(messages.read_thermal(msg, message.log_ns))
            except messages.MessageError:
                self._thermal_refused += 1
                raise
        return []

    def _decide(self, pairs: list[Pair], undecided: deque) -> None:
        """Register and normalise pairs, in order, and say how the rest is made."""
        for pair in pairs:
            entry, message = undecided.popleft()
            view = self._view(pair) if pair.thermal else None
            try:
                if view and view.registration is None:
                    raise RegistrationError(view.problem)
                prepared = self._fuser.prepare(pair, view and view.registration)
            except FusionError as error:
                prepared = Prepared(replace(pair, reason=str(error)))
            mode = prepared.pair.mode if prepared.registered else Mode.PASSTHROUGH
            if self._p.registration_mode == "depth" and pair.thermal and not pair.depth:
                reason = prepared.pair.reason or NO_DEPTH
                prepared = replace(prepared, pair=replace(prepared.pair, reason=reason))
            self._count(mode, prepared.pair.reason)
            status = self._status(self._blank_status())
            info = self._infos.get("rgb")
            entry.count = 2 + (info is not None) + (2 if prepared.registered and self._p.debug_images else 0)
            entry.make = partial(self._fuse, prepared, message, view, info, status)

    def _view(self, pair: Pair) -> View:
        view = self._rig.view(pair)
        if view.registration is None and self._p.extrinsics_source == "tf":
            self._rig.follow_transforms()  # it has just learnt the frames' names
            view = self._rig.view(pair)
        return view

    def _fuse(self, prepared: Prepared, message: Message, view, info, status) -> list[tuple[str, bytes]]:
        """Messages that a frame gives. Runs in any thread, in any order."""
        pair = prepared.pair
        fused = self._fuser.finish(prepared)
        # Bytes must not depend on the clock of the machine.
        fused = replace(fused, register_ns=0, normalise_ns=0, student_ns=0)
        source = pair.rgb.source
        begin(status, source.header, fused.mode, fused.reason)
        describe(status, pair, fused, view)
        status.total_s = status.sync_wait_s
        made = [("status", status)]
        if info is not None:
            made.insert(0, ("camera_info", replace(info, header=source.header)))
        if self._p.debug_images and fused.thermal is not None:
            made.append(("thermal", image_message(self.types, source.header, fused.thermal, "mono8")))
            picture = overlay(pair.rgb, fused.thermal)
            made.append(("overlay", image_message(self.types, source.header, picture, pair.rgb.encoding)))
        if fused.pixels is pair.rgb.pixels and getattr(source, "encoding", None) == pair.rgb.encoding:
            return [(self.outputs["image"].name, message.data), *self._serialised(made)]
        return self._serialised(
            [("image", image_message(self.types, source.header, fused.pixels, pair.rgb.encoding)), *made]
        )

    def _serialised(self, made: list[tuple[str, object]]) -> list[tuple[str, bytes]]:
        return [
            (self.outputs[name].name, bytes(self.types.serialize_cdr(msg, self.outputs[name].type)))
            for name, msg in made
        ]

    def _count(self, mode: int, reason: str) -> None:
        self.modes[MODES[mode]] += 1
        if reason:
            self.reasons[reason] += 1

    def _blank_status(self):
        stamp = self.types.types["builtin_interfaces/msg/Time"](0, 0)
        return _blank(self.types.types[STATUS], header=None, reason="", thermal_stamp=stamp)

    def _status(self, status):
        """With the counters of now."""
        status.received = self.modes.total()
        status.fused, status.held = self.modes["FUSED"], self.modes["HELD"]
        status.passed, status.refused = self.modes["PASSTHROUGH"], self.modes["REFUSED"]
        status.thermal_received, status.thermal_refused = self._thermal_received, self._thermal_refused
        return status


def _copy(message: Message) -> list[tuple[str, bytes]]:
    return [(message.topic.name, message.data)]


def _blank(kind, **known):
    """A message of zeros, but for what is known."""
    return kind(**{f.name: known.get(f.name, 0) for f in fields(kind)})


def _identity(recording: Recording) -> list:
    return [recording.start_ns, recording.end_ns, [repr(topic) for topic in recording.topics.values()]]
