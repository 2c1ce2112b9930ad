"""What the demo, the soak and the tests of the live node share: camera drivers, a downstream node, processes."""

import json
import os
import signal
import subprocess  # noqa: TID251  # lists of arguments only
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from ament_index_python.packages import get_package_prefix
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_messages import fill_image, stamp_to_ns
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.camera_info import camera_info_fields
from fusionproxy_ros.msg import FusionStatus
from fusionproxy_ros.ros.dds import use_large_image_profile


class TrialError(FusionError):
    """A trial cannot run; the text says why and what to do."""


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until `condition` holds. Raises TrialError, which names `what`, after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TrialError(f"{what}: nothing after {timeout_s:g} s")
        time.sleep(0.02)


# --- processes ------------------------------------------------------------------------------------------------


def prepare_environment() -> None:
    """Settings of this process and its children, before rclpy starts: this machine only, image-sized segments."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_large_image_profile()


def node_arguments(
    parameters: Mapping[str, object],
    remappings: Mapping[str, str] | None = None,
    params_file: Path | None = None,
) -> list[str]:
    """What follows a node's executable."""
    arguments = ["--ros-args", *(["--params-file", str(params_file)] if params_file else [])]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={json.dumps(value)}"]
    for old, new in (remappings or {}).items():
        arguments += ["-r", f"{old}:={new}"]
    return arguments


def start_node(
    parameters: Mapping[str, object],
    remappings: Mapping[str, str] | None = None,
    params_file: Path | None = None,
    output: IO[str] | None = None,
) -> subprocess.Popen:
    """The installed fusion_node as its own process, as `ros2 run` would start it; output: file for what it prints."""
    launcher = Path(get_package_prefix("fusionproxy_ros")) / "lib" / "fusionproxy_ros" / "fusion_node"
    command = [sys.executable, str(launcher), *node_arguments(parameters, remappings, params_file)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603


def stop_process(process: subprocess.Popen, timeout_s: float = 10.0) -> int:
    """End a process as Ctrl-C would; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def extrinsic_parameters(calibration: Calibration) -> dict[str, object]:
    """Node parameters for a calibration whose intrinsics come by camera_info."""
    return {
        "registration.mode": "extrinsic",
        "registration.rotation": [float(x) for x in calibration.rotation.reshape(-1)],
        "registration.translation_m": [float(x) for x in calibration.translation_m],
    }


# --- nodes ----------------------------------------------------------------------------------------------------


def camera_info_message(camera: Camera, header: Header) -> CameraInfo:
    """CameraInfo of a raw image."""
    fields = camera_info_fields(camera).items()
    # rclpy takes lists for every array; an ndarray only for those of fixed length.
    lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields}
    return CameraInfo(header=header, **lists)


class CameraDrivers:
    """Publishes as an RGB and a thermal camera driver would."""

    def __init__(
        self,
        node: Node,
        calibration: Calibration | None = None,
        best_effort: bool = False,
        names: Sequence[str] = ("rgb", "thermal"),
    ):
        reliability = QoSReliabilityPolicy.BEST_EFFORT if best_effort else QoSReliabilityPolicy.RELIABLE
        qos = QoSProfile(depth=10, reliability=reliability)
        self._images = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in names}
        self._infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", qos) for name in names}
        self._cameras: dict[str, Camera] = (
            {name: getattr(calibration, name) for name in names} if calibration else {}
        )

    def publish(self, name: str, stamp_ns: int, pixels: np.ndarray) -> Header:
        """One image of the "rgb" or "thermal" camera, with its camera_info where there is a calibration."""
        header = Header(frame_id=f"{name}_optical_frame")
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
        encoding = "rgb8" if pixels.ndim == 3 else {1: "mono8", 2: "mono16"}[pixels.itemsize]
        if name in self._cameras:
            self._infos[name].publish(camera_info_message(self._cameras[name], header))
        self._images[name].publish(fill_image(Image(), header, pixels, encoding))
        return header

    def connected(self) -> bool:
        """Every image topic has a subscriber."""
        return all(publisher.get_subscription_count() > 0 for publisher in self._images.values())


class Downstream:
    """Takes the fused stream as a detector would: every message with its time of arrival, in order."""

    def __init__(
        self,
        node: Node,
        image_topic: str = "fused/image",
        status_topic: str = "fused/status",
        keep_pixels: bool = True,
    ):
        self.images: list[tuple[int, Image]] = []  # (monotonic ns, message)
        self.statuses: list[FusionStatus] = []
        self.registered: dict[int, Image] = {}  # stamp ns -> debug image
        self._keep_pixels = keep_pixels
        qos = QoSProfile(depth=100)
        node.create_subscription(Image, image_topic, self._on_image, qos)
        node.create_subscription(FusionStatus, status_topic, self.statuses.append, qos)
        node.create_subscription(Image, "fusion/debug/thermal_registered", self._on_registered, qos)

    @property
    def pictures(self) -> dict[int, Image]:
        """Stamp in ns -> fused image."""
        return {stamp_to_ns(msg.header.stamp): msg for _, msg in self.images}

    @property
    def modes(self) -> dict[int, int]:
        """Stamp in ns -> mode."""
        return {stamp_to_ns(status.header.stamp): status.mode for status in self.statuses}

    def _on_image(self, msg: Image) -> None:
        if not self._keep_pixels:
            msg.data = b""
        self.images.append((time.monotonic_ns(), msg))

    def _on_registered(self, msg: Image) -> None:
        self.registered[stamp_to_ns(msg.header.stamp)] = msg
