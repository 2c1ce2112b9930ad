"""`fusionproxy demo`: two cameras, the real node as its own process, a downstream node; pictures and a report."""

import glob
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from tqdm import tqdm

from fusionproxy_ros.core.frames import NS_PER_S, Mode
from fusionproxy_ros.core.image_files import partners_in, read_rgb_file, read_thermal_file
from fusionproxy_ros.core.image_messages import read_pixels
from fusionproxy_ros.core.pictures import captioned
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.harness import (
    CameraDrivers,
    Downstream,
    TrialError,
    extrinsic_parameters,
    prepare_environment,
    start_node,
    stop_process,
    wait_until,
)
from fusionproxy_ros.trials.judge import PlayedFrame, judge_demo
from fusionproxy_ros.trials.night_road import (
    VISIBLE_CONTRAST,
    NightRoad,
    Pedestrian,
    contrast,
    default_calibration,
)

RGB_HZ = 30
OUTAGE_S = 3.0  # how long the demo switches the thermal camera off
TRUTH_STRIDE = 5  # every how many frames the pedestrians are judged
SHEET_SCALE = 0.6
THERMAL_PHASE_S = 0.007  # free-running cameras do not expose together


# --- what the cameras saw -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Footage:
    """Two streams and what is known of them.

    rgb, thermal: (time in seconds, pixels), ascending. calibration: None where thermal is registered already.
    pedestrians: ground truth at a time in seconds, or None.
    """

    rgb: list[tuple[float, np.ndarray]]
    thermal: list[tuple[float, np.ndarray]]
    calibration: Calibration | None = None
    pedestrians: Callable[[float], list[Pedestrian]] | None = None


def render_footage(seconds: float, thermal_hz: float) -> Footage:
    """The synthetic night road, rendered before the clock starts."""
    calibration = default_calibration()
    road = NightRoad(calibration)
    rgb_s = np.arange(0, seconds, 1 / RGB_HZ)
    thermal_s = np.arange(THERMAL_PHASE_S, seconds, 1 / thermal_hz)
    with tqdm(total=len(rgb_s) + len(thermal_s), desc="rendering the scene", unit="frame") as bar:

        def rendered(picture: Callable[[float], np.ndarray], t_s: float) -> tuple[float, np.ndarray]:
            bar.update()
            return t_s, picture(t_s)

        rgb = [rendered(road.rgb, float(t_s)) for t_s in rgb_s]
        thermal = [rendered(road.thermal, float(t_s)) for t_s in thermal_s]
    return Footage(rgb, thermal, calibration, road.pedestrians)


def load_footage(source: str, seconds: float) -> Footage:
    """A video pair `NAME_rgb.* NAME_thermal.*` (prefix, glob or either file) or a folder with rgb/ and thermal/.

    Shorter footage is played forwards and backwards until `seconds` are full. Raises TrialError, or InputError for a
    picture that cannot be used.
    """
    rgb, thermal, hz = (_of_folder if Path(source).is_dir() else _of_videos)(source)
    if not rgb or len(rgb) != len(thermal):
        raise TrialError(
            f"source {source}: {len(rgb)} readable RGB and {len(thermal)} thermal frames; both must match"
        )
    if len({image.shape for image in rgb}) > 1:
        raise TrialError(
            f"source {source}: the pictures differ in size; use fusionproxy fuse-pairs for single pictures"
        )
    there_and_back = [*range(len(rgb)), *range(len(rgb) - 2, 0, -1)]
    order = [(i / hz, there_and_back[i % len(there_and_back)]) for i in range(int(seconds * hz))]
    return Footage([(t_s, rgb[i][..., ::-1]) for t_s, i in order], [(t_s, thermal[i]) for t_s, i in order])


def _of_folder(source: str) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """RGB as BGR and thermal pictures, and how many there are in a second."""
    pairs, lonely = partners_in(Path(source) / "rgb", Path(source) / "thermal")
    if lonely:
        raise TrialError(
            f"source {source}: rgb/ and thermal/ must hold images of the same names: {lonely[0]}"
        )
    rgb, thermal = zip(*pairs.values(), strict=True)
    return [read_rgb_file(path) for path in rgb], [read_thermal_file(path) for path in thermal], RGB_HZ


def _of_videos(source: str) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """As `_of_folder`."""
    pattern = re.sub(r"_(rgb|thermal)\.", "_*.", source)
    found = sorted(glob.glob(pattern if "*" in pattern else f"{pattern}_*"))
    rgb, thermal = (
        next((path for path in found if f"_{kind}." in path), None) for kind in ("rgb", "thermal")
    )
    if rgb is None or thermal is None:
        raise TrialError(
            f"source {source}: give scene, a video pair NAME_rgb.* and NAME_thermal.*, or a folder with "
            "rgb/ and thermal/"
        )
    hz = cv2.VideoCapture(rgb).get(cv2.CAP_PROP_FPS)
    # Lossy videos of grey pictures come out with a tinge: green is nearest to luma.
    return list(_read_video(rgb)), [frame[..., 1] for frame in _read_video(thermal)], hz


def _read_video(path: str) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(path)
    while (frame := video.read())[0]:
        yield frame[1]


# --- the run --------------------------------------------------------------------------------------------------


def play(
    footage: Footage, cameras: CameraDrivers, outage_s: tuple[float, float], start_ns: int
) -> list[PlayedFrame]:
    """Publish both streams in real time, thermal not during `outage_s`; stamps are start_ns + the frame's time."""
    events = [(t_s, "rgb", pixels) for t_s, pixels in footage.rgb]
    events += [(t_s, "thermal", p) for t_s, p in footage.thermal if not outage_s[0] <= t_s < outage_s[1]]
    played = []
    begin = time.monotonic()
    for t_s, name, pixels in tqdm(sorted(events, key=lambda e: e[:2]), desc="live", unit="msg"):
        time.sleep(max(0.0, begin + t_s - time.monotonic()))
        stamp_ns, now_ns = start_ns + round(t_s * NS_PER_S), time.monotonic_ns()
        header = cameras.publish(name, stamp_ns, pixels)
        if name == "rgb":
            played.append(PlayedFrame(stamp_ns, header, now_ns))
    return played


def thermal_visible(
    footage: Footage, frames: Sequence[PlayedFrame], down: Downstream
) -> dict[str, Any] | None:
    """Of the pedestrians invisible in RGB while frames were FUSED: how many the fused image shows."""
    if footage.pedestrians is None:
        return None
    modes, fused = down.modes, down.pictures
    hidden = shown = 0
    for (t_s, _), frame in list(zip(footage.rgb, frames, strict=True))[::TRUTH_STRIDE]:
        if modes.get(frame.stamp_ns) != Mode.FUSED or frame.stamp_ns not in fused:
            continue
        luma = cv2.cvtColor(read_pixels(fused[frame.stamp_ns]), cv2.COLOR_RGB2GRAY)
        for person in footage.pedestrians(t_s):
            if person.rgb_contrast < VISIBLE_CONTRAST:
                hidden += 1
                shown += contrast(luma, person.mask) >= VISIBLE_CONTRAST
    return {
        "share": round(shown / hidden, 4) if hidden else None,
        "threshold": VISIBLE_CONTRAST,
        "invisible_in_rgb": hidden,
    }


def run_demo(source: str, out: Path, seconds: float = 20.0, thermal_hz: float = 30.0) -> dict[str, Any]:
    """The whole demo; returns the report that it wrote to `out`. Raises TrialError."""
    out.mkdir(parents=True, exist_ok=True)
    footage = render_footage(seconds, thermal_hz) if source == "scene" else load_footage(source, seconds)
    seconds = footage.rgb[-1][0]
    off_s = (seconds - OUTAGE_S) / 2 if seconds > 3 * OUTAGE_S else seconds  # too short a run has no outage
    on_s = off_s + OUTAGE_S
    frames, down, rmw = _play_live(footage, (off_s, on_s))
    back_s = next((t_s for t_s, _ in footage.thermal if t_s >= on_s), seconds)
    back_ns = frames[0].stamp_ns + round((back_s - footage.rgb[0][0]) * NS_PER_S)
    visible = thermal_visible(footage, frames, down)
    report = judge_demo(frames, down, back_ns) | {
        "rmw": rmw,
        "source": source,
        "thermal_visible": visible and visible["share"],
        "thermal_visible_detail": visible,
    }
    of_outage_s = [off_s - 0.2, off_s + 0.3, off_s + 1.5, on_s + 0.2]
    write_pictures(footage, frames, down, [0.1 * seconds, 0.3 * seconds, *of_outage_s, 0.8 * seconds], out)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _play_live(footage: Footage, outage_s: tuple[float, float]) -> tuple[list[PlayedFrame], Downstream, str]:
    """Play the footage to the node: what was sent, what came downstream, and which middleware carried it."""
    prepare_environment()
    parameters: dict[str, object] = {"debug_images": True}
    if footage.calibration:
        parameters |= extrinsic_parameters(footage.calibration)
    rclpy.init()
    node = rclpy.create_node("fusionproxy_demo")
    process = start_node(parameters)
    try:
        cameras, down = CameraDrivers(node, footage.calibration), Downstream(node)
        with Spinner(node):
            wait_until(
                lambda: cameras.connected() and node.count_publishers("fused/image"),
                30.0,
                "starting the fusion node",
            )
            time.sleep(0.5)  # the last endpoints match
            frames = play(footage, cameras, outage_s, start_ns=time.time_ns())
            time.sleep(1.0)
        return frames, down, rclpy.get_rmw_implementation_identifier()
    finally:
        stop_process(process)
        node.destroy_node()
        rclpy.try_shutdown()


# --- pictures -------------------------------------------------------------------------------------------------


def write_pictures(
    footage: Footage, frames: Sequence[PlayedFrame], down: Downstream, moments_s: Sequence[float], out: Path
) -> None:
    """sheet.png: RGB | thermal registered | fused at `moments_s`; fused.mp4: RGB | fused, every frame."""
    modes, fused = down.modes, down.pictures
    wanted = {min(range(len(frames)), key=lambda i: abs(footage.rgb[i][0] - t_s)) for t_s in moments_s}
    hz = (len(frames) - 1) / max(footage.rgb[-1][0], 1e-9)
    video, rows = None, []
    for i, frame in enumerate(tqdm(frames, desc="pictures", unit="frame")):
        if frame.stamp_ns not in fused:
            continue
        t_s, rgb = footage.rgb[i]
        mode = Mode(modes[frame.stamp_ns]).name if frame.stamp_ns in modes else "no status"
        left = captioned(rgb, "RGB")
        right = captioned(read_pixels(fused[frame.stamp_ns]), f"{t_s:.1f} s fused: {mode}")
        both = cv2.cvtColor(np.hstack([left, right]), cv2.COLOR_RGB2BGR)
        video = video or _video(out / "fused.mp4", hz, both)
        video.write(both)
        if i in wanted:
            row = np.hstack([left, _registered(frame.stamp_ns, rgb, down), right])
            rows.append(cv2.resize(row, None, fx=SHEET_SCALE, fy=SHEET_SCALE, interpolation=cv2.INTER_AREA))
    if video:
        video.release()
    if not cv2.imwrite(str(out / "sheet.png"), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)):
        raise TrialError(f"cannot write {out / 'sheet.png'}: choose another folder with --out")


def _video(path: Path, hz: float, like: np.ndarray) -> cv2.VideoWriter:
    """For pictures as large as `like`."""
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), hz, (like.shape[1], like.shape[0]))


def _registered(stamp_ns: int, rgb: np.ndarray, down: Downstream) -> np.ndarray:
    """The debug image of one frame; black where there is none."""
    if msg := down.registered.get(stamp_ns):
        return captioned(cv2.cvtColor(read_pixels(msg), cv2.COLOR_GRAY2RGB), "thermal registered")
    return captioned(np.zeros_like(rgb), "no thermal")
