"""`fusionproxy replay` as its own process over real DDS: what was recorded arrives, once, in order and in time."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from itertools import pairwise

import numpy as np
import pytest
from fusionproxy_ros.msg import FusionStatus
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from recordings import IMAGE, START_NS, STRING, TYPES, camera_stream, image, string, textures, write_bag
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from fusionproxy_ros.bags.fuse import fuse_bag
from fusionproxy_ros.bags.recording import Recording, Topic
from fusionproxy_ros.bags.replay import ReplayError, message_class, replay
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.pipeline.settings import settings_from
from fusionproxy_ros.trials.harness import wait_until

REPLAY = (
    "import json, sys; from pathlib import Path; from fusionproxy_ros.bags.replay import replay; "
    "sys.exit(replay(Path(sys.argv[1]), **json.loads(sys.argv[2])))"
)
LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def offered(reliability=QosReliability.RELIABLE, durability=QosDurability.VOLATILE):
    """As a publisher's profile is recorded."""
    never = QosTime(2147483647, 4294967295)
    history, liveliness = QosHistory.UNKNOWN, QosLiveliness.AUTOMATIC
    profile = Qos(history, 0, reliability, durability, never, never, liveliness, never, False)
    return {"offered_qos_profiles": [profile]}


def cdr(message, kind):
    return bytes(TYPES.serialize_cdr(message, kind))


def text(words):
    return cdr(string(words), STRING)


def write_raw(path, topics, messages, storage=StoragePlugin.SQLITE3):
    """topics: name -> (type, options of add_connection); messages: (ns after START_NS, name, CDR bytes)."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            name: writer.add_connection(
                name, kind, **({} if "msgdef" in options else {"typestore": TYPES}), **options
            )
            for name, (kind, options) in topics.items()
        }
        for at_ns, name, data in sorted(messages, key=lambda m: m[0]):
            writer.write(connections[name], START_NS + at_ns, data)
    return path


def start_replay(graph, bag, stdin=subprocess.DEVNULL, own_terminal=False, **options):
    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-c", REPLAY, str(bag), json.dumps(options)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=take_terminal if own_terminal else None,
    )
    graph.processes.append(process)
    return process


def trigger(graph, name):
    """Call a service of the replay; its answer."""
    client = graph.node.create_client(Trigger, f"/fusionproxy_replay/{name}")
    assert client.wait_for_service(10)
    time.sleep(0.5)  # until the service has discovered this client too
    future = client.call_async(Trigger.Request())
    wait_until(future.done, 10, name)
    return future.result()


class Listener:
    """Every message of some topics with its time of arrival; clock: bag time in ns after START_NS."""

    def __init__(self, graph, **topics):
        self.heard = {name: [] for name in topics}
        self.clock = []
        for name, (kind, qos) in topics.items():
            graph.node.create_subscription(
                kind, f"/{name}", lambda msg, name=name: self.heard[name].append((time.monotonic(), msg)), qos
            )
        graph.node.create_subscription(
            Clock, "/clock", lambda msg: self.clock.append(stamp_to_ns(msg.clock) - START_NS), 100
        )

    def texts(self, name):
        return [msg.data for _, msg in self.heard[name]]


def test_what_was_recorded_arrives_once_in_order_and_in_time_and_the_clock_follows(graph, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [image(i, rng.integers(0, 256, (48, 64, 3), np.uint8), "rgb8") for i in range(30)]
    images = [cdr(picture, IMAGE) for picture in pictures]
    odd = {"msgdef": "int32 x\n", "rihs01": "RIHS01_" + 64 * "0"}
    best_effort = offered(QosReliability.BEST_EFFORT)
    bag = write_raw(
        tmp_path / "bag",
        {
            "/images": (IMAGE, best_effort),
            "/words": (STRING, {}),
            "/clock": ("rosgraph_msgs/msg/Clock", {}),
            "/odd": ("odd_msgs/msg/Odd", odd),
            "/changed": ("std_msgs/msg/Bool", odd),
        },
        [(i * NS_PER_S // 30, "/images", data) for i, data in enumerate(images)]
        + [(i * NS_PER_S // 40, "/words", text(f"{i}")) for i in range(1, 40)]
        + [(1, "/clock", bytes(12)), (2, "/odd", bytes(8)), (3, "/changed", bytes(8))],
    )
    best_effort = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    graph.node.create_publisher(String, "/spoken", 10)  # a live node that the recording doubles
    listener = Listener(graph, images=(Image, best_effort), spoken=(String, QoSProfile(depth=100)))
    process = start_replay(graph, bag, rate=2.0, clock_hz=100.0, remap=["/words:=/spoken"])
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output

    assert [msg for _, msg in listener.heard["images"]] == [deserialize_message(d, Image) for d in images]
    assert listener.texts("spoken") == [f"{i}" for i in range(1, 40)]
    begin, _ = listener.heard["images"][0]
    for i, (at, _) in enumerate(listener.heard["spoken"], 1):
        assert at - begin == pytest.approx(i / 40 / 2, abs=0.15)

    moving = [ns for ns in listener.clock if ns > 0]
    assert listener.clock[0] == 0  # where it stands until somebody listens
    assert moving == sorted(moving)
    assert moving[-1] == 39 * NS_PER_S // 40
    assert 25 < len(moving) < 60  # 0.49 s at 100 Hz
    assert np.median(np.diff(moving)) == pytest.approx(2 * NS_PER_S / 100, rel=0.2)

    assert "/odd is not played: odd_msgs/msg/Odd is not installed: install its package (apt install" in output
    assert "/changed is not played: std_msgs/msg/Bool was recorded with other fields" in output
    assert output.count("is not played") == 2
    assert output.count("has another publisher") == 1 and "/spoken has another publisher" in output
    assert "30  /images" in output and "39  /words as /spoken" in output and "published 69 messages" in output


def test_it_loops_pauses_by_service_and_space_and_latches_what_was_latched(graph, tmp_path):
    latched = offered(durability=QosDurability.TRANSIENT_LOCAL)
    bag = write_raw(
        tmp_path / "bag",
        {"/words": (STRING, {}), "/static": (STRING, latched)},
        [(0, "/static", text("first")), (0, "/words", text("before the start"))]
        + [(NS_PER_S + i * NS_PER_S // 50, "/words", text(f"{i}")) for i in range(30)],
        StoragePlugin.MCAP,
    )
    listener = Listener(graph, words=(String, QoSProfile(depth=100)))
    terminal, stdin = os.openpty()
    process = start_replay(
        graph, bag, stdin, own_terminal=True, loop=True, start_offset_s=1, start_paused=True, clock_hz=200
    )
    wait_until(lambda: listener.clock, 20, "the clock while paused")
    trigger(graph, "resume")
    wait_until(lambda: len(listener.heard["words"]) > 75, 10, "the third pass")

    def standing():
        """Nothing moves, though the clock is told."""
        words, ticks, now_ns = len(listener.heard["words"]), len(listener.clock), listener.clock[-1]
        time.sleep(0.3)
        return (
            len(listener.heard["words"]) == words
            and len(listener.clock) > ticks + 10
            and set(listener.clock[ticks:]) == {now_ns}
        )

    answer = trigger(graph, "pause")
    assert answer.success and answer.message == "paused"
    time.sleep(0.1)  # what is on its way
    assert standing()
    os.write(terminal, b" ")
    seen = len(listener.heard["words"])
    wait_until(lambda: len(listener.heard["words"]) > seen + 5, 5, "playing after the space bar")
    assert trigger(graph, "toggle_paused").message == "paused"

    late = Listener(graph, static=(String, LATCHED))  # first said before the offset, two passes ago
    wait_until(lambda: late.texts("static"), 5, "the latched message")
    assert late.texts("static") == ["first"]

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    os.close(terminal)
    os.close(stdin)
    assert process.returncode == 0 and "space pauses" in output and "1  /static" in output
    words = listener.texts("words")
    assert words == [f"{i % 30}" for i in range(len(words))] and f"{len(words)}  /words" in output
    jumps = [(a, b) for a, b in pairwise(listener.clock) if b < a]
    assert jumps and all(b == NS_PER_S and a >= 1.58 * NS_PER_S for a, b in jumps)


def test_a_recording_replayed_through_the_real_node_gives_the_pixels_that_fuse_bag_gives(graph, tmp_path):
    """Of 16-bit thermal, whose gain control remembers; nobody drops or gives up waiting, so load does not count."""
    patient = {"deadline_s": 1.0, "max_latency_s": 5.0}
    pairs = [(rgb, thermal * np.uint16(40 + n)) for n, (rgb, thermal) in enumerate(textures(20, (120, 160)))]
    bag = write_bag(tmp_path / "bag", camera_stream(pairs))
    fuse_bag(bag, tmp_path / "fused", settings_from(patient))
    down = graph.downstream()
    process = start_replay(graph, bag, wait_s=40)  # the node takes longer to start
    graph.fusion({"use_sim_time": True, **patient})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    wait_until(lambda: len(down.statuses) == 20, 10, "all answers")
    with Recording(tmp_path / "fused") as offline:
        for (_, live), message in zip(down.images, offline.messages(["/fused/image"]), strict=True):
            expected = deserialize_message(message.data, Image)
            assert live.header == expected.header
            assert live.data == expected.data
        for live, message in zip(down.statuses, offline.messages(["/fused/status"]), strict=True):
            expected = deserialize_message(message.data, FusionStatus)
            assert (live.mode, live.reason, live.skew_s) == (expected.mode, "", 0.0)
            assert (live.thermal_low, live.thermal_high) == (expected.thermal_low, expected.thermal_high)


def test_ten_loops_of_a_recording_give_the_node_as_many_pairs_each(graph, tmp_path):
    """Of images, not to the nanosecond: who is first, the last thermal image or the clock's jump, the graph decides."""
    bag = write_bag(tmp_path / "bag", camera_stream(textures(45)))
    down = graph.downstream(keep_pixels=False)
    start_replay(graph, bag, loop=True, wait_s=40)
    graph.fusion({"use_sim_time": True, "deadline_s": 1.0, "max_latency_s": 5.0})  # load does not count
    wait_until(lambda: len(down.statuses) >= 450, 60, "ten loops")
    answers = [(stamp_to_ns(status.header.stamp), status.mode) for status in down.statuses[:450]]
    loops = [answers[i : i + 45] for i in range(0, 450, 45)]
    assert [ns for ns, _ in loops[1]] == sorted(ns for ns, _ in loops[1])
    assert all(loop == loops[1] for loop in loops[1:])
    assert {mode for _, mode in loops[1]} == {FusionStatus.FUSED}


@pytest.mark.parametrize(
    "kind", ["os/path", "os/msg/Path", "std_msgs/msg/../os", "std_msgs/srv/Empty", "Std_msgs/msg/String", ""]
)
def test_a_type_that_is_no_installed_message_is_refused_and_nothing_imported(kind):
    before = set(sys.modules)
    with pytest.raises(ReplayError, match=r"is no message type|is not installed"):
        message_class(Topic("/x", kind))
    assert set(sys.modules) == before


def test_an_installed_package_without_such_a_message_is_named():
    with pytest.raises(ReplayError, match="the installed std_msgs has no Nonsense"):
        message_class(Topic("/x", "std_msgs/msg/Nonsense"))
    assert message_class(Topic("/x", "std_msgs/msg/String")) is String


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"topics": ["/rgb"]}, "no topic /rgb in it; it has /words"),
        ({"remap": ["/words=/x"]}, "write it as /recorded/name:=/live/name"),
        ({"remap": ["/words:=x"]}, "must be absolute"),
        ({"start_offset_s": 5.0}, "is 1.0 s long"),
    ],
)
def test_what_cannot_be_played_as_asked_is_refused_with_the_cure(tmp_path, options, reason):
    words = [(ns, "/words", text("")) for ns in (0, NS_PER_S)]
    bag = write_raw(tmp_path / "bag", {"/words": (STRING, {})}, words)
    with pytest.raises(ReplayError, match=reason):
        replay(bag, **options)
