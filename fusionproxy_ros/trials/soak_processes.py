"""The processes of a soak: two cameras, the node, a downstream; what they note down, and how that is read.

The cameras play one plan that is known before the clock starts. The downstream is a process of its own because the one
that hurts the node and starts processes would take its own pauses for gaps of the node's.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rclpy
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tqdm import tqdm

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_messages import fill_image, stamp_to_ns
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.msg import FusionStatus
from fusionproxy_ros.trials.harness import camera_info_message, start_node, stop_process, wait_until
from fusionproxy_ros.trials.judge import Received, RunLog, Sent
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration
from fusionproxy_ros.trials.soak_plan import PERIOD_NS, PlannedMessage, frame_id_of

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.sharedctypes import SynchronizedArray

    # (begin_ns, epoch_ns): monotonic time and stamp of the run's start, 0 until it is known.
    SharedClock = SynchronizedArray[int]

SizesPx = tuple[tuple[int, int], tuple[int, int]]  # (width, height) of RGB and of thermal
HELD_UP_NS = NS_PER_S // 5  # a driver that was held up for longer goes on with the present
SPAWN = multiprocessing.get_context("spawn")  # a fork would share the middleware's threads and locks


# --- the cameras ----------------------------------------------------------------------------------------------


def save_footage(calibration: Calibration, count: int, folder: Path) -> None:
    """Render `count` pictures of each camera into the folder, as arrays."""
    road = NightRoad(calibration)
    for name, picture in (("rgb", road.rgb), ("thermal", road.thermal)):
        bar = tqdm(range(count), desc=f"rendering {name}", unit="frame")
        np.save(folder / f"{name}.npy", [picture(i * PERIOD_NS / NS_PER_S) for i in bar])


def header_of(message: PlannedMessage, index: int, epoch_ns: int) -> Header:
    """epoch_ns: what the run's start is on the clock of stamps."""
    header = Header(frame_id=frame_id_of(message, index))
    if message.stamp_ns is not None:
        header.stamp.sec, header.stamp.nanosec = divmod(epoch_ns + message.stamp_ns, NS_PER_S)
    return header


def _play(
    cameras: tuple[str, ...],
    messages: Sequence[PlannedMessage],
    sizes_px: SizesPx,
    folder: Path,
    clock: SharedClock,
) -> None:
    """A camera driver's process: publish the messages of `cameras` when they are due, note when each went out."""
    keep_freed_memory()
    rclpy.init()
    node = rclpy.create_node(f"soak_{cameras[0]}")
    calibration, qos = default_calibration(*sizes_px), QoSProfile(depth=30)  # no loss on this side
    # Our own files, without pickles.
    footage = {name: np.load(folder / f"{name}.npy") for name in cameras if name != "clock"}  # noqa: TID251
    images = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in footage}
    infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", qos) for name in footage}
    ticks = {name: node.create_publisher(Clock, "/clock", qos) for name in cameras if name == "clock"}
    wait_until(lambda: all(p.get_subscription_count() for p in images.values()), 60, "node subscribing")
    time.sleep(0.5)  # the last endpoints match
    wait_until(lambda: clock[0], 60, "the run's start")
    begin_ns, epoch_ns = clock[:]
    start_ns = time.monotonic_ns()  # later than begin_ns where this camera was killed before
    with (folder / f"{cameras[0]}.log").open("a", buffering=1) as log:  # by lines: this process may be killed
        for index, message in enumerate(messages):
            due_ns = begin_ns + message.at_ns
            if message.camera not in cameras or due_ns < max(start_ns, time.monotonic_ns() - HELD_UP_NS):
                continue
            header = header_of(message, index, epoch_ns)
            if message.camera in footage:
                image, info = _image_and_info(message, header, footage, calibration)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
            log.write(f"{index} {time.monotonic_ns() - begin_ns}\n")
            if message.camera in ticks:
                ticks[message.camera].publish(Clock(clock=header.stamp))
                continue
            if message.has_info:
                infos[message.camera].publish(info)
            images[message.camera].publish(image)
    time.sleep(1.0)  # reliable messages may still be on their way


def _image_and_info(
    message: PlannedMessage, header: Header, footage: Mapping[str, np.ndarray], calibration: Calibration
) -> tuple[Image, CameraInfo]:
    pixels, encoding = footage[message.camera][message.picture], "rgb8"
    if message.camera == "thermal":  # no sensor gives the same bits twice
        noise = np.random.default_rng(message.noise).integers(0, 5, pixels.shape, np.uint16)
        pixels, encoding = pixels + noise, "mono16"
    image = fill_image(Image(), header, pixels, encoding)
    info = camera_info_message(getattr(calibration, message.camera), header)
    for edit in message.edits:
        edit(image, info)
    return image, info


# --- the downstream -------------------------------------------------------------------------------------------


def _listen(folder: Path, clock: SharedClock) -> None:
    """A downstream's process: note every fused image and status, a line of JSON each."""
    keep_freed_memory()
    rclpy.init()
    node, qos = rclpy.create_node("soak_downstream"), QoSProfile(depth=100)
    with (folder / "downstream.log").open("w", buffering=1) as log:  # by lines: this process will be killed

        def note(output: str, msg, *rest) -> None:
            ns = time.monotonic_ns() - clock[0]
            seen = ns, msg.header.frame_id, stamp_to_ns(msg.header.stamp), *rest
            log.write(json.dumps([output, *seen]) + "\n")

        node.create_subscription(Image, "fused/image", lambda msg: note("image", msg), qos)
        node.create_subscription(
            FusionStatus, "fused/status", lambda msg: note("status", msg, msg.mode, msg.reason), qos
        )
        rclpy.spin(node)


# --- all of them ----------------------------------------------------------------------------------------------


class SoakProcesses:
    """The node under test, the cameras and the downstream; what the acts of faults take hold of.

    fusion, thermal: processes. node: of this process. parameters: client of those of the node under test.
    problems: what acts found wrong, since the last look.
    """

    def __init__(
        self,
        messages: Sequence[PlannedMessage],
        sizes_px: SizesPx,
        parameters: Mapping[str, object],
        folder: Path,
    ):
        self._messages, self._sizes_px = messages, sizes_px
        self._parameters, self._folder = parameters, folder
        self._clock: SharedClock = SPAWN.Array("q", 2)
        self._output = (folder / "node.log").open("w")
        self.problems: list[str] = []
        self.rss: list[int] = []  # bytes, once a second
        self.shared: list[int] = []  # of them, in the shared segments of the middleware, peers' among them
        self.node = rclpy.create_node("soak")
        # One for all: each is six more endpoints, of which the node under test keeps account.
        self.parameters = AsyncParameterClient(self.node, "fusion")
        self._downstream = self._start(_listen, folder, self._clock)
        self.start_fusion()
        self.rgb = self._start_camera("rgb", *(["clock"] if parameters.get("use_sim_time") else []))
        self.start_thermal()

    def start_fusion(self) -> None:
        self.fusion = start_node(self._parameters, output=self._output)

    def start_thermal(self) -> None:
        self.thermal = self._start_camera("thermal")

    def _start_camera(self, *names: str) -> SpawnProcess:
        return self._start(_play, names, self._messages, self._sizes_px, self._folder, self._clock)

    def _start(self, work: Callable[..., None], *arguments: object) -> SpawnProcess:
        process = SPAWN.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def begin(self) -> None:
        """Start the run's clock as soon as everybody has found each other."""
        topics = "rgb/image_raw", "thermal/image_raw"
        wait_until(lambda: all(map(self.node.count_publishers, topics)), 60, "the cameras starting")
        wait_until(lambda: all(map(self.node.count_subscribers, topics)), 60, "the node subscribing")
        time.sleep(1.5)  # the last endpoints match
        self.begin_ns, self.epoch_ns = time.monotonic_ns() + NS_PER_S // 5, time.time_ns()
        self._clock[1], self._clock[0] = self.epoch_ns, self.begin_ns
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def sleep_until(self, ns: int) -> None:
        time.sleep(max(0, self.begin_ns + ns - time.monotonic_ns()) / NS_PER_S)

    def end(self) -> bool:
        """End every process; whether the node was still alive."""
        alive = self.fusion.poll() is None
        for process in (self.rgb, self.thermal, self._downstream):
            process.kill()
        stop_process(self.fusion)
        self._output.close()
        self.node.destroy_node()
        return alive

    def _watch_memory(self) -> None:
        while self.fusion.poll() is None:
            status = Path(f"/proc/{self.fusion.pid}/status").read_text()
            kib = dict(re.findall(r"(VmRSS|RssShmem):\s+(\d+) kB", status))
            if len(kib) == 2:  # else it is ending
                self.rss.append(int(kib["VmRSS"]) * 1024)
                self.shared.append(int(kib["RssShmem"]) * 1024)
            time.sleep(1.0)


# --- what they noted down -------------------------------------------------------------------------------------


def read_log(
    messages: Sequence[PlannedMessage], epoch_ns: int, folder: Path, problems: dict[int, list[str]]
) -> RunLog:
    """What the cameras sent and the downstream saw. problems: as of RunLog."""
    seen: dict[str, list[Received]] = {"image": [], "status": []}
    for line in (folder / "downstream.log").read_text().splitlines():
        output, *fields = json.loads(line)
        seen[output].append(Received(*fields))
    rgb, thermal = (_sent(camera, messages, epoch_ns, folder) for camera in ("rgb", "thermal"))
    return RunLog(rgb, thermal, seen["image"], seen["status"], problems)


def _sent(camera: str, messages: Sequence[PlannedMessage], epoch_ns: int, folder: Path) -> list[Sent]:
    sent = []
    for line in (folder / f"{camera}.log").read_text().splitlines():
        index, ns = map(int, line.split())
        one = messages[index]
        if one.camera == camera:
            header = header_of(one, index, epoch_ns)
            stamp_ns = stamp_to_ns(header.stamp)
            sent.append(Sent(header.frame_id, stamp_ns, one.slot, one.at_ns, ns, one.usable, one.faulty))
    return sent
