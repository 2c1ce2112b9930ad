"""`fusionproxy demo`: two cameras, the real node as its own process, a downstream node; pictures and a report.

Also the pieces that the tests of the live node are made of: Cameras, Downstream, start_node.
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tqdm import tqdm

from fusionproxy_ros.frames import NS_PER_S, Calibration, Camera, FusionError, Mode
from fusionproxy_ros.messages import fill_image, read_pixels, stamp_to_ns
from fusionproxy_ros.msg import FusionStatus
from fusionproxy_ros.scene import VISIBLE_CONTRAST, NightRoad, Pedestrian, contrast, default_calibration
from fusionproxy_ros.transport import use_large_image_profile

RGB_HZ = 30
OUTAGE_S = 3.0  # how long the demo switches the thermal camera off
TRUTH_STRIDE = 5  # every how many frames the pedestrians are judged
SHEET_SCALE = 0.6
THERMAL_PHASE_S = 0.007  # free-running cameras do not expose together


class DemoError(FusionError):
    """The demo cannot run; the text says why and what to do."""


# --- what the cameras saw -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recording:
    """Two streams and what is known of them.

    rgb, thermal: (time in seconds, pixels), ascending. calibration: None where thermal is registered already.
    pedestrians: ground truth at a time in seconds, or None.
    """

    rgb: list[tuple[float, np.ndarray]]
    thermal: list[tuple[float, np.ndarray]]
    calibration: Calibration | None = None
    pedestrians: Callable[[float], list[Pedestrian]] | None = None


def render_scene(seconds: float, thermal_hz: float) -> Recording:
    """The synthetic night road, rendered before the clock starts."""
    calibration = default_calibration()
    scene = NightRoad(calibration)
    rgb_s = np.arange(0, seconds, 1 / RGB_HZ)
    thermal_s = np.arange(THERMAL_PHASE_S, seconds, 1 / thermal_hz)
    bar = tqdm(total=len(rgb_s) + len(thermal_s), desc="rendering the scene", unit="frame")
    rgb, thermal = [], []
    for stamps_s, render, frames in ((rgb_s, scene.rgb, rgb), (thermal_s, scene.thermal, thermal)):
        for t_s in stamps_s:
            frames.append((float(t_s), render(float(t_s))))
            bar.update()
    bar.close()
    return Recording(rgb, thermal, calibration, scene.pedestrians)


def load_recording(source: str, seconds: float) -> Recording:
    """A video pair `NAME_rgb.* NAME_thermal.*` (prefix, glob or either file) or a folder with rgb/ and thermal/.

    Shorter footage is played forwards and backwards until `seconds` are full. Raises DemoError.
    """
    if Path(source).is_dir():
        paths = [sorted((Path(source) / name).glob("*.*")) for name in ("rgb", "thermal")]
        if [path.stem for path in paths[0]] != [path.stem for path in paths[1]]:
            raise DemoError(f"source {source}: rgb/ and thermal/ must hold images of the same names")
        rgb = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in paths[0]]
        thermal = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths[1]]
        hz = RGB_HZ
    else:
        pattern = re.sub(r"_(rgb|thermal)\.", "_*.", source)
        found = sorted(glob.glob(pattern if "*" in pattern else f"{pattern}_*"))
        paths = [next((path for path in found if f"_{kind}." in path), None) for kind in ("rgb", "thermal")]
        if None in paths:
            raise DemoError(
                f"source {source}: give scene, a video pair NAME_rgb.* and NAME_thermal.*, or a folder with "
                "rgb/ and thermal/"
            )
        hz = cv2.VideoCapture(paths[0]).get(cv2.CAP_PROP_FPS)
        rgb, thermal = (list(_read_video(path)) for path in paths)
    if not rgb or len(rgb) != len(thermal) or any(image is None for image in rgb + thermal):
        counts = [sum(image is not None for image in stream) for stream in (rgb, thermal)]
        raise DemoError(
            f"source {source}: {counts[0]} readable RGB and {counts[1]} thermal frames; both must match"
        )
    if len({image.shape for image in rgb}) > 1:
        raise DemoError(
            f"source {source}: the pictures differ in size; use fusionproxy fuse-pairs for single pictures"
        )
    thermal = [image if image.ndim == 2 else image[..., 1] for image in thermal]
    there_and_back = [*range(len(rgb)), *range(len(rgb) - 2, 0, -1)]
    order = [(i / hz, there_and_back[i % len(there_and_back)]) for i in range(int(seconds * hz))]
    return Recording([(t_s, rgb[i][..., ::-1]) for t_s, i in order], [(t_s, thermal[i]) for t_s, i in order])


def _read_video(path: str) -> Iterable[np.ndarray]:
    video = cv2.VideoCapture(path)
    while (frame := video.read())[0]:
        yield frame[1]


# --- processes and nodes --------------------------------------------------------------------------------------


def prepare_environment() -> None:
    """Settings of this process and its children, before rclpy starts: this machine only, image-sized segments."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_large_image_profile()


def node_arguments(
    parameters: dict, remappings: dict[str, str] | None = None, params_file: Path | None = None
) -> list[str]:
    """What follows a node's executable."""
    arguments = ["--ros-args", *(["--params-file", str(params_file)] if params_file else [])]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={json.dumps(value)}"]
    for old, new in (remappings or {}).items():
        arguments += ["-r", f"{old}:={new}"]
    return arguments


def start_node(
    parameters: dict,
    remappings: dict[str, str] | None = None,
    params_file: Path | None = None,
    output=None,
) -> subprocess.Popen:
    """The installed fusion_node as its own process, as `ros2 run` would start it; output: file for what it prints."""
    launcher = Path(get_package_prefix("fusionproxy_ros")) / "lib" / "fusionproxy_ros" / "fusion_node"
    command = [sys.executable, str(launcher), *node_arguments(parameters, remappings, params_file)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def stop_process(process: subprocess.Popen, timeout_s: float = 10.0) -> int:
    """End a process as Ctrl-C would; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def extrinsic_parameters(calibration: Calibration) -> dict:
    """Node parameters for a calibration whose intrinsics come by camera_info."""
    return {
        "registration.mode": "extrinsic",
        "registration.rotation": [float(x) for x in calibration.rotation.reshape(-1)],
        "registration.translation_m": [float(x) for x in calibration.translation_m],
    }


def camera_info(camera: Camera, header: Header) -> CameraInfo:
    """CameraInfo of a raw image."""
    info = CameraInfo(header=header, width=camera.width_px, height=camera.height_px)
    info.distortion_model, info.d = camera.distortion_model, camera.d.tolist()
    info.k, info.r = camera.k.reshape(-1).tolist(), np.eye(3).reshape(-1).tolist()
    info.p = np.hstack([camera.k, np.zeros((3, 1))]).reshape(-1).tolist()
    return info


class Cameras:
    """Publishes as an RGB and a thermal camera driver would."""

    def __init__(
        self,
        node,
        calibration: Calibration | None = None,
        best_effort: bool = False,
        names=("rgb", "thermal"),
    ):
        reliability = QoSReliabilityPolicy.BEST_EFFORT if best_effort else QoSReliabilityPolicy.RELIABLE
        qos = QoSProfile(depth=10, reliability=reliability)
        self._images = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in names}
        self._infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", qos) for name in names}
        self._cameras = {name: calibration and getattr(calibration, name) for name in names}

    def publish(self, name: str, stamp_ns: int, pixels: np.ndarray) -> Header:
        """One image of the "rgb" or "thermal" camera, with its camera_info where there is a calibration."""
        header = Header(frame_id=f"{name}_optical_frame")
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
        encoding = "rgb8" if pixels.ndim == 3 else {1: "mono8", 2: "mono16"}[pixels.itemsize]
        if self._cameras[name]:
            self._infos[name].publish(camera_info(self._cameras[name], header))
        self._images[name].publish(fill_image(Image(), header, pixels, encoding))
        return header

    def connected(self) -> bool:
        """Every image topic has a subscriber."""
        return all(publisher.get_subscription_count() > 0 for publisher in self._images.values())


class Downstream:
    """Takes the fused stream as a detector would: every message with its time of arrival, in order."""

    def __init__(
        self, node, image_topic="fused/image", status_topic="fused/status", keep_pixels: bool = True
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


class Spinner:
    """Runs a node's callbacks in a thread: `with Spinner(node): ...`."""

    def __init__(self, node):
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._executor.shutdown()
        self._thread.join()


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until `condition` holds; DemoError naming `what` after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"{what}: nothing after {timeout_s:g} s")
        time.sleep(0.02)


# --- the run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sent:
    """One published RGB frame."""

    stamp_ns: int
    header: Header
    sent_ns: int


def play(recording: Recording, cameras: Cameras, outage_s: tuple[float, float], start_ns: int) -> list[Sent]:
    """Publish both streams in real time, thermal not during `outage_s`; stamps are start_ns + the frame's time."""
    events = [(t_s, "rgb", pixels) for t_s, pixels in recording.rgb]
    events += [(t_s, "thermal", p) for t_s, p in recording.thermal if not outage_s[0] <= t_s < outage_s[1]]
    sent = []
    begin = time.monotonic()
    for t_s, name, pixels in tqdm(sorted(events, key=lambda e: e[:2]), desc="live", unit="msg"):
        time.sleep(max(0.0, begin + t_s - time.monotonic()))
        stamp_ns, now_ns = start_ns + round(t_s * NS_PER_S), time.monotonic_ns()
        header = cameras.publish(name, stamp_ns, pixels)
        if name == "rgb":
            sent.append(Sent(stamp_ns, header, now_ns))
    return sent


def judge(sent: list[Sent], down: Downstream, thermal_back_ns: int) -> dict:
    """The two promises, counted. thermal_back_ns: stamp of the first thermal frame after the outage."""
    headers = {s.stamp_ns: s for s in sent}
    stamps = [stamp_to_ns(msg.header.stamp) for _, msg in down.images]
    answers = Counter(stamps)
    modes = down.modes
    after = [modes.get(s.stamp_ns) for s in sent if s.stamp_ns >= thermal_back_ns]
    first_fused = next((i for i, mode in enumerate(after) if mode == FusionStatus.FUSED), len(after))
    matched = [
        (at_ns - headers[ns].sent_ns) / 1e6
        for (at_ns, _), ns in zip(down.images, stamps, strict=True)
        if ns in headers
    ]
    stages = ("sync_wait", "queue", "register", "normalise", "student", "publish")
    return {
        "rgb_frames": len(sent),
        "answered_once": sum(answers[s.stamp_ns] == 1 for s in sent),
        "header_mismatches": sum(
            msg.header != headers[ns].header if ns in headers else 1
            for (_, msg), ns in zip(down.images, stamps, strict=True)
        ),
        "out_of_order": sum(b <= a for a, b in pairwise(stamps)),
        "modes": {mode.name: sum(m == mode for m in modes.values()) for mode in Mode},
        "dropped": sum(m == FusionStatus.DROPPED for m in modes.values()),
        "reasons": dict(Counter(status.reason for status in down.statuses if status.reason)),
        "recovery_frames": first_fused,
        "worst_gap_ms": round(max((b - a) / 1e6 for (a, _), (b, _) in pairwise(down.images)), 1),
        "latency_ms": _percentiles([1e3 * s.total_s for s in down.statuses]),
        "latency_fused_ms": _percentiles(
            [1e3 * s.total_s for s in down.statuses if s.mode == FusionStatus.FUSED]
        ),
        "stage_median_ms": {
            s: _percentiles([1e3 * getattr(x, f"{s}_s") for x in down.statuses])["p50"] for s in stages
        },
        "end_to_end_ms": _percentiles(matched),
    }


def _percentiles(values) -> dict:
    values = list(values) or [float("nan")]
    return {name: round(float(np.percentile(values, q)), 2) for name, q in (("p50", 50), ("p99", 99))}


def thermal_visible(recording: Recording, sent: list[Sent], down: Downstream) -> dict | None:
    """Of the pedestrians invisible in RGB while frames were FUSED: how many the fused image shows."""
    if recording.pedestrians is None:
        return None
    modes, fused = down.modes, down.pictures
    hidden = shown = 0
    for (t_s, _), frame in list(zip(recording.rgb, sent, strict=True))[::TRUTH_STRIDE]:
        if modes.get(frame.stamp_ns) != FusionStatus.FUSED or frame.stamp_ns not in fused:
            continue
        luma = cv2.cvtColor(read_pixels(fused[frame.stamp_ns]), cv2.COLOR_RGB2GRAY)
        for person in recording.pedestrians(t_s):
            if person.rgb_contrast < VISIBLE_CONTRAST:
                hidden += 1
                shown += contrast(luma, person.mask) >= VISIBLE_CONTRAST
    return {
        "share": round(shown / hidden, 4) if hidden else None,
        "threshold": VISIBLE_CONTRAST,
        "invisible_in_rgb": hidden,
    }


# --- pictures -------------------------------------------------------------------------------------------------


def _label(picture: np.ndarray, text: str) -> np.ndarray:
    picture = np.ascontiguousarray(picture)
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(picture, text, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, width, cv2.LINE_AA)
    return picture


def write_pictures(
    recording: Recording, sent: list[Sent], down: Downstream, moments_s: list[float], out: Path
) -> None:
    """sheet.png: RGB | thermal registered | fused at `moments_s`; fused.mp4: RGB | fused, every frame."""
    modes, fused = down.modes, down.pictures
    height, width = recording.rgb[0][1].shape[:2]
    hz = (len(sent) - 1) / max(recording.rgb[-1][0], 1e-9)
    video = cv2.VideoWriter(str(out / "fused.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), hz, (2 * width, height))
    wanted = [min(range(len(sent)), key=lambda i: abs(recording.rgb[i][0] - t_s)) for t_s in moments_s]
    rows = {}
    for i, frame in enumerate(tqdm(sent, desc="pictures", unit="frame")):
        if frame.stamp_ns not in fused:
            continue
        t_s, rgb = recording.rgb[i]
        mode = Mode(modes[frame.stamp_ns]).name if frame.stamp_ns in modes else "no status"
        right = _label(read_pixels(fused[frame.stamp_ns]), f"{t_s:.1f} s fused: {mode}")
        video.write(cv2.cvtColor(np.hstack([_label(rgb.copy(), "RGB"), right]), cv2.COLOR_RGB2BGR))
        if i in wanted:
            middle, text = np.zeros_like(rgb), "no thermal"
            if registered := down.registered.get(frame.stamp_ns):
                middle, text = cv2.cvtColor(read_pixels(registered), cv2.COLOR_GRAY2RGB), "thermal registered"
            row = np.hstack([_label(rgb.copy(), "RGB"), _label(middle, text), right])
            rows[i] = cv2.resize(row, None, fx=SHEET_SCALE, fy=SHEET_SCALE, interpolation=cv2.INTER_AREA)
    video.release()
    sheet = cv2.cvtColor(np.vstack([rows[i] for i in sorted(rows)]), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(out / "sheet.png"), sheet):
        raise DemoError(f"cannot write {out / 'sheet.png'}: choose another folder with --out")


def run(source: str, out: Path, seconds: float = 20.0, thermal_hz: float = 30.0) -> dict:
    """The whole demo; returns the report that it wrote to `out`. Raises DemoError."""
    out.mkdir(parents=True, exist_ok=True)
    recording = render_scene(seconds, thermal_hz) if source == "scene" else load_recording(source, seconds)
    seconds = recording.rgb[-1][0]
    off_s = (seconds - OUTAGE_S) / 2 if seconds > 3 * OUTAGE_S else seconds  # too short a run has no outage
    on_s = off_s + OUTAGE_S
    prepare_environment()
    parameters = {"debug_images": True}
    if recording.calibration:
        parameters |= extrinsic_parameters(recording.calibration)
    rclpy.init()
    node = rclpy.create_node("fusionproxy_demo")
    process = start_node(parameters)
    try:
        cameras, down = Cameras(node, recording.calibration), Downstream(node)
        with Spinner(node):
            wait_until(
                lambda: cameras.connected() and node.count_publishers("fused/image"),
                30.0,
                "starting the fusion node",
            )
            time.sleep(0.5)  # the last endpoints match
            sent = play(recording, cameras, (off_s, on_s), start_ns=time.time_ns())
            time.sleep(1.0)
        rmw = rclpy.get_rmw_implementation_identifier()
    finally:
        stop_process(process)
        node.destroy_node()
        rclpy.try_shutdown()
    back_s = next((t_s for t_s, _ in recording.thermal if t_s >= on_s), seconds)
    back_ns = sent[0].stamp_ns + round((back_s - recording.rgb[0][0]) * NS_PER_S)
    visible = thermal_visible(recording, sent, down)
    report = judge(sent, down, back_ns) | {
        "rmw": rmw,
        "source": source,
        "thermal_visible": visible and visible["share"],
        "thermal_visible_detail": visible,
    }
    moments_s = [
        0.1 * seconds,
        0.3 * seconds,
        off_s - 0.2,
        off_s + 0.3,
        off_s + 1.5,
        on_s + 0.2,
        0.8 * seconds,
    ]
    write_pictures(recording, sent, down, moments_s, out)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
