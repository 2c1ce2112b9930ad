"""`fusionproxy replay`: plays a recording onto the live graph, with /clock, where rosbag2 is not installed.

The recorded bytes are published as they are. Services ~/pause, ~/resume, ~/toggle_paused and the space bar pause it.
"""

import json
import os
import re
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import rclpy
from ament_index_python.resources import get_resource
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosbags.interfaces import Qos, QosDurability, QosReliability
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from fusionproxy_ros.bags.recording import Message, Recording, Topic
from fusionproxy_ros.bags.schedule import Schedule, Tally, Ticks
from fusionproxy_ros.core.errors import FusionError, shown
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.ros.dds import use_large_image_profile
from fusionproxy_ros.ros.spinner import Spinner

REPLAY_NODE = "fusionproxy_replay"
DEPTH = 10
LATCHED_DEPTH = 100  # as tf2's listener of /tf_static asks for
SETTLE_NS = 500_000_000  # since a subscriber was last found: it has to find us too, and others may come
POLL_S = 0.05  # between looks for subscribers
ACKED_WITHIN_S = 2.0  # at the end, for the last messages to arrive
# Many publish there by design; elsewhere a second publisher is a live node that the recording doubles.
SHARED_TOPICS = {"/rosout", "/parameter_events", "/tf", "/tf_static", "/diagnostics"}
MESSAGE_TYPE = re.compile(r"([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)")


class ReplayError(FusionError):
    """The recording cannot be played as asked. The message names the cause and the cure."""


def replay(
    path: Path,
    *,
    rate: float = 1.0,
    loop: bool = False,
    clock_hz: float = 40.0,
    start_offset_s: float = 0.0,
    start_paused: bool = False,
    topics: Sequence[str] | None = None,
    remap: Sequence[str] = (),
    wait_s: float = 3.0,
) -> int:
    """Play the recording at `path` to its end, or until Ctrl-C; 1 when it was damaged. Raises FusionError.

    topics: play only these. remap: such as "/recorded/name:=/live/name". wait_s: how long to wait for a subscriber.
    """
    use_large_image_profile()
    with Recording(path) as recording:
        offset_ns = round(start_offset_s * NS_PER_S)
        if offset_ns > recording.end_ns - recording.start_ns:
            length_s = (recording.end_ns - recording.start_ns) / NS_PER_S
            raise ReplayError(
                f"{path}: is {length_s:.1f} s long: choose an earlier start than {start_offset_s:g} s"
            )
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node(REPLAY_NODE, use_global_arguments=False, start_parameter_services=False)
        try:
            names = _live_names(recording, topics, remap)
            player = Player(node, recording, names, Schedule(rate, start_paused), clock_hz)
            with _on_signal(player.stop), Spinner(node), _on_space(player.toggle_paused) as keyboard:
                topics_text = f"{len(player.publishers)} of {len(recording.topics)} topics"
                print(f"playing {topics_text} of {path}{'; space pauses' if keyboard else ''}", flush=True)
                player.run(recording.start_ns + offset_ns, loop, round(wait_s * NS_PER_S))
        finally:
            node.destroy_node()
            rclpy.try_shutdown()
        for damage in recording.damage:
            print(f"fusionproxy: {damage}", file=sys.stderr)
        for name in player.publishers:
            moved = f" as {names[name]}" if names[name] != name else ""
            print(f"  {player.tally.sent[name]:>7}  {name}{moved}")
        print(f"published {player.tally}", flush=True)
        return 1 if recording.damage else 0


class Player:
    """Publishes a recording's messages when they are due. `names`: those to play, recorded name -> live name.

    Its methods may be called from other threads while it runs; when pause returns, nothing more goes out.
    """

    def __init__(
        self, node, recording: Recording, names: dict[str, str], schedule: Schedule, clock_hz: float
    ):
        self.tally = Tally()
        self.publishers = {}  # by recorded name
        self._node, self._recording, self._names, self._schedule = node, recording, names, schedule
        self._changed = threading.Condition()  # guards schedule and stopped
        self._stopped = False
        self._ticks = Ticks(clock_hz)
        self._latched = {name for name in names if _is_latched(recording.topics[name].qos)}
        for name, live_name in names.items():
            topic = recording.topics[name]
            try:
                self.publishers[name] = node.create_publisher(
                    message_class(topic), live_name, _qos(topic.qos)
                )
            except ReplayError as error:
                _warn(f"{shown(name)} is not played: {error}")
            except (NameValidationException, RuntimeError) as error:  # an impossible name; another type there
                _warn(f"{shown(name)} is not played: {str(error).splitlines()[0]}")
        if not self.publishers:
            raise ReplayError(f"{recording.path}: none of its topics can be played")
        # Reliable reaches those who ask for best effort too.
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        for name, action in (
            ("pause", self.pause),
            ("resume", self.resume),
            ("toggle_paused", self.toggle_paused),
        ):
            node.create_service(
                Trigger, f"~/{name}", lambda _, answer, action=action: self._answer(action, answer)
            )

    def run(self, start_ns: int, loop: bool, wait_ns: int) -> None:
        """All messages from bag time start_ns on, once or until stopped."""
        passes = 0
        self._publish_latched_before(start_ns)
        while not self._stopped and (loop or passes == 0):
            messages = self._recording.messages(self.publishers, start_ns)
            first = next(messages, None)
            if first is None:
                raise ReplayError(
                    f"{self._recording.path}: no messages to play in the topics and time asked for"
                )
            if passes == 0:
                self._wait_for_subscribers(first.log_ns, wait_ns)
                self._warn_of_other_publishers()
            self._play(first, messages)
            passes += 1
        if not self._stopped:
            self._wait_for_acknowledgements()

    def pause(self) -> None:
        with self._changed:
            self._schedule.pause(time.monotonic_ns())
            self._changed.notify()

    def resume(self) -> None:
        with self._changed:
            self._schedule.resume(time.monotonic_ns())
            self._changed.notify()

    def toggle_paused(self) -> None:
        with self._changed:
            (self.resume if self._schedule.paused else self.pause)()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _answer(self, action: Callable[[], None], answer: Trigger.Response) -> Trigger.Response:
        with self._changed:
            action()
            answer.success, answer.message = True, "paused" if self._schedule.paused else "playing"
        return answer

    def _play(self, first: Message, rest: Iterator[Message]) -> None:
        """One pass. The next message is read before it is due, so that reading does not delay it."""
        with self._changed:
            self._schedule.start(first.log_ns, time.monotonic_ns())
            self._tick(first.log_ns)  # a jump back comes before what is played again
        message: Message | None = first
        latest_ns = first.log_ns
        while message and not self._stopped:
            latest_ns = max(latest_ns, message.log_ns)  # files may overlap: recorded late is not played late
            self._publish_when_due(message, latest_ns)
            message = next(rest, None)
        if not self._stopped:
            self._tick(latest_ns)  # the clock reaches the end whatever its rate

    def _publish_when_due(self, message: Message, bag_ns: int) -> None:
        with self._changed:
            while not self._stopped:
                now_ns = time.monotonic_ns()
                if self._ticks.take(now_ns):
                    self._tick(min(bag_ns, self._schedule.bag_ns(now_ns)))  # never ahead of what went out
                due_ns = self._schedule.due_ns(bag_ns)
                if due_ns is not None and due_ns <= now_ns:
                    self.publishers[message.topic.name].publish(message.data)
                    self.tally.add(message.topic.name, now_ns - due_ns)
                    return
                wake_ns = self._ticks.next_ns if due_ns is None else min(due_ns, self._ticks.next_ns)
                self._changed.wait(max(0, wake_ns - now_ns) / NS_PER_S)

    def _tick(self, bag_ns: int) -> None:
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(bag_ns, NS_PER_S)
        self._clock.publish(clock)

    def _wait_for_subscribers(self, bag_ns: int, wait_ns: int) -> None:
        """Until somebody listens and nobody has joined for a while; the clock stands at the start meanwhile."""
        begin_ns = settled_ns = time.monotonic_ns()
        counts: list[int] = []
        with self._changed:
            while not self._stopped and (now_ns := time.monotonic_ns()) < begin_ns + wait_ns:
                if self._ticks.take(now_ns):
                    self._tick(bag_ns)
                found = [publisher.get_subscription_count() for publisher in self.publishers.values()]
                if found != counts:
                    counts, settled_ns = found, now_ns
                if any(counts) and now_ns >= settled_ns + SETTLE_NS:
                    return
                self._changed.wait(POLL_S)
        if wait_ns and not any(counts) and not self._stopped:
            _warn(f"nobody listens after {wait_ns / NS_PER_S:g} s; playing all the same")

    def _warn_of_other_publishers(self) -> None:
        for name in sorted({"/clock", *(self._names[name] for name in self.publishers)} - SHARED_TOPICS):
            if self._node.count_publishers(name) > 1:
                _warn(f"{name} has another publisher, and both mix: stop it, or see --topics and --remap")

    def _publish_latched_before(self, start_ns: int) -> None:
        """What a subscriber would hold if it had listened from the beginning: /tf_static, maps."""
        latched = self._latched & self.publishers.keys()
        if latched and start_ns > self._recording.start_ns:
            for message in self._recording.messages(latched):
                if message.log_ns >= start_ns:
                    break
                self.publishers[message.topic.name].publish(message.data)
                self.tally.add(message.topic.name, 0)

    def _wait_for_acknowledgements(self) -> None:
        """A process that ends at once takes its last images with it."""
        end_ns = time.monotonic_ns() + round(ACKED_WITHIN_S * NS_PER_S)
        for publisher in self.publishers.values():
            publisher.wait_for_all_acked(Duration(nanoseconds=max(0, end_ns - time.monotonic_ns())))


# --- what is played under which name, type and QoS ------------------------------------------------------------


def _live_names(recording: Recording, topics: Sequence[str] | None, remap: Sequence[str]) -> dict[str, str]:
    """Recorded name -> live name of the topics to play."""
    new_names = {}
    for rule in remap:
        old, arrow, new = rule.partition(":=")
        if not arrow:
            raise ReplayError(f"--remap {rule}: write it as /recorded/name:=/live/name")
        new_names[old] = new
        try:
            validate_full_topic_name(new)
        except NameValidationException as error:
            raise ReplayError(f"--remap {rule}: {str(error).splitlines()[0]}") from None
    if unknown := sorted({*new_names, *(topics or ())} - recording.topics.keys()):
        has = ", ".join(shown(name) for name in recording.topics) or "none"
        raise ReplayError(f"{recording.path}: no topic {', '.join(unknown)} in it; it has {has}")
    names = {name: new_names.get(name, name) for name in topics or recording.topics}
    return {name: live for name, live in names.items() if live != "/clock"}  # there is one clock: ours


def message_class(topic: Topic) -> type:
    """The installed class of a topic's type. Nothing is imported but what the ament index lists as a message.

    Raises ReplayError when it is not installed, or differs from what was recorded.
    """
    match = MESSAGE_TYPE.fullmatch(topic.type)
    if not match:
        raise ReplayError(f"{shown(topic.type)} is no message type")
    package, name = match.groups()
    distro = os.environ.get("ROS_DISTRO", "DISTRO")
    cure = f"install its package (apt install ros-{distro}-{package.replace('_', '-')}) or build it"
    try:
        listed, prefix = get_resource("rosidl_interfaces", package)
    except LookupError:
        raise ReplayError(f"{topic.type} is not installed: {cure}") from None
    if not {f"msg/{name}.msg", f"msg/{name}.idl"} & set(listed.split()):
        raise ReplayError(f"the installed {package} has no {name}: {cure} in the version of the recording")
    description = Path(prefix, "share", package, "msg", f"{name}.json")  # since Iron
    if topic.digest and description.is_file():
        hashes = {
            h["type_name"]: h["hash_string"] for h in json.loads(description.read_text())["type_hashes"]
        }
        if hashes.get(topic.type, topic.digest) != topic.digest:
            raise ReplayError(
                f"{topic.type} was recorded with other fields than the installed: {cure} of that version"
            )
    return getattr(import_module(f"{package}.msg"), name)


def _is_latched(offered: Sequence[Qos]) -> bool:
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)


def _qos(offered: Sequence[Qos]) -> QoSProfile:
    """What the recorded publishers offered; where they differ, what satisfies most subscribers."""
    profile = QoSProfile(depth=DEPTH)
    if offered and all(qos.reliability == QosReliability.BEST_EFFORT for qos in offered):
        profile.reliability = QoSReliabilityPolicy.BEST_EFFORT
    if _is_latched(offered):
        profile.durability, profile.depth = QoSDurabilityPolicy.TRANSIENT_LOCAL, LATCHED_DEPTH
    return profile


def _warn(text: str) -> None:
    print(f"fusionproxy: {text}", file=sys.stderr, flush=True)


# --- who may interrupt ----------------------------------------------------------------------------------------


@contextmanager
def _on_signal(action: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `action` and nothing else."""
    before = {
        number: signal.signal(number, lambda *_: action()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _on_space(action: Callable[[], None]) -> Iterator[bool]:
    """Every space typed calls `action`; yields whether there is a keyboard: stdin is a terminal that is ours."""
    try:
        fd = sys.stdin.fileno()
        ours = os.tcgetpgrp(fd) == os.getpgrp()  # a background job that reads is stopped by the system
    except (OSError, ValueError, AttributeError):  # no terminal; closed; no stdin
        ours = False
    if not ours:
        yield False
        return
    done = threading.Event()

    def listen():
        while not done.is_set():
            if select.select([fd], [], [], 0.1)[0]:
                key = os.read(fd, 1)
                if key == b" ":
                    action()
                elif not key:  # the terminal is gone
                    return

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        done.set()
        thread.join()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
