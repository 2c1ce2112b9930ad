"""Makes a recording from pictures or videos, so that anyone can try footage of their own."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros.bags import BagError
from fusionproxy_ros.bags.recording import Topic, typestore
from fusionproxy_ros.bags.topics import CAMERA_INFO, IMAGE
from fusionproxy_ros.bags.transforms import TF_STATIC
from fusionproxy_ros.bags.writing import TRANSIENT, BagWriter, image_message
from fusionproxy_ros.folders import images_in, read_rgb, read_thermal
from fusionproxy_ros.frames import NS_PER_S, Calibration, Camera
from fusionproxy_ros.messages import THERMAL_ENCODINGS

START_NS = 1_000_000_000 * NS_PER_S  # the first stamp: any but zero, and the same each time
CAMERAS = ("rgb", "thermal")
TFS = "tf2_msgs/msg/TFMessage"


def make_bag(
    rgb: Path,
    thermal: Path,
    out: Path,
    hz: float | None = None,
    calibration: Calibration | None = None,
    storage: str = "mcap",
) -> int:
    """Write both streams to a recording under the names that the node has for its topics; the number of pairs.

    rgb, thermal: two folders whose pictures share names, or two videos. hz: rate; that of the RGB video if not given.
    calibration: written as camera_info with every image and as tf_static.

    Raises BagError, FusionError.
    """
    if rgb.is_dir() != thermal.is_dir():
        raise BagError(f"{rgb} and {thermal}: give two folders or two videos")
    if rgb.is_dir():
        pairs, count, hz = *_of_folders(rgb, thermal), hz or 30.0
    else:
        pairs, count, of_video = _of_videos(rgb, thermal)
        hz = hz or of_video
    return write_pairs(tqdm(pairs, total=count, desc=out.name, unit="pair"), out, hz, calibration, storage)


def write_pairs(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    out: Path,
    hz: float,
    calibration: Calibration | None = None,
    storage: str = "mcap",
) -> int:
    """Write pairs, (H, W, 3) uint8 BGR and (h, w) uint8, uint16 or float32, exposed together; their number."""
    types = typestore()
    message = types.types
    topics = [Topic(f"/{camera}/image_raw", IMAGE) for camera in CAMERAS]
    if calibration:
        topics += [Topic(f"/{camera}/camera_info", CAMERA_INFO) for camera in CAMERAS]
        topics += [Topic(TF_STATIC, TFS, qos=(TRANSIENT,))]
    kinds = {topic.name: topic.type for topic in topics}
    count = 0
    with BagWriter(out, storage, "none", topics, types, {"made": str(out)}) as writer:
        done = writer.done

        def write(name: str, log_ns: int, msg) -> None:
            nonlocal done
            if done:  # by a run that was killed
                done -= 1
            else:
                writer.write(name, log_ns, bytes(types.serialize_cdr(msg, kinds[name])))

        for rgb, thermal in pairs:
            stamp_ns = START_NS + round(count * NS_PER_S / hz)
            stamp = message["builtin_interfaces/msg/Time"](stamp_ns // NS_PER_S, stamp_ns % NS_PER_S)
            headers = [message["std_msgs/msg/Header"](stamp, f"{camera}_optical_frame") for camera in CAMERAS]
            if calibration and not count:
                write(TF_STATIC, stamp_ns, _transform(message, headers, calibration))
            for camera, header, pixels in zip(CAMERAS, headers, (rgb, thermal), strict=True):
                if calibration:
                    info = _camera_info(message, header, getattr(calibration, camera))
                    write(f"/{camera}/camera_info", stamp_ns, info)
                encoding = "bgr8" if pixels.ndim == 3 else THERMAL_ENCODINGS[pixels.dtype]
                write(f"/{camera}/image_raw", stamp_ns, image_message(types, header, pixels, encoding))
            writer.may_part()
            count += 1
        if not count:
            raise BagError(f"{out}: no pictures to put into it")
        writer.finish()
    return count


def _of_folders(rgb: Path, thermal: Path) -> tuple[Iterator, int]:
    rgb_paths, thermal_paths = images_in(rgb, BagError), images_in(thermal, BagError)
    if lonely := sorted(rgb_paths.keys() ^ thermal_paths.keys()):
        raise BagError(f"{rgb} and {thermal} must share file names: {lonely[0]} is in one of them only")
    pairs = ((read_rgb(path), read_thermal(thermal_paths[name])) for name, path in rgb_paths.items())
    return pairs, len(rgb_paths)


def _of_videos(rgb: Path, thermal: Path) -> tuple[Iterator, int, float]:
    videos = [cv2.VideoCapture(str(path)) for path in (rgb, thermal)]
    for path, video in zip((rgb, thermal), videos, strict=True):
        if not video.isOpened():
            raise BagError(f"{path}: not a readable video, nor a folder of images")
    count = int(videos[0].get(cv2.CAP_PROP_FRAME_COUNT))
    return _frames(videos, rgb, thermal), count, videos[0].get(cv2.CAP_PROP_FPS)


def _frames(videos: list, rgb: Path, thermal: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        (more_rgb, colour), (more_thermal, grey) = (video.read() for video in videos)
        if more_rgb != more_thermal:
            raise BagError(f"{rgb} and {thermal} have different numbers of frames: cut them alike")
        if not more_rgb:
            return
        yield colour, grey[..., 1]  # grey came in three channels


def _camera_info(message: dict, header, camera: Camera):
    projection = np.hstack([camera.k, np.zeros((3, 1))])
    roi = message["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return message[CAMERA_INFO](
        header,
        camera.height_px,
        camera.width_px,
        camera.distortion_model,
        np.asarray(camera.d, np.float64),
        camera.k.reshape(-1),
        np.eye(3).reshape(-1),
        projection.reshape(-1),
        0,
        0,
        roi,
    )


def _transform(message: dict, headers: list, calibration: Calibration):
    """The thermal camera's pose in the RGB camera's frame, which is what TF wants."""
    rotation = calibration.rotation.T
    x, y, z = -rotation @ calibration.translation_m
    turn = cv2.Rodrigues(rotation)[0].reshape(3)
    angle = np.linalg.norm(turn)
    axis = turn / angle if angle else turn
    geometry = "geometry_msgs/msg/"
    return message[TFS](
        [
            message[geometry + "TransformStamped"](
                headers[0],
                headers[1].frame_id,
                message[geometry + "Transform"](
                    message[geometry + "Vector3"](x, y, z),
                    message[geometry + "Quaternion"](*(axis * np.sin(angle / 2)), np.cos(angle / 2)),
                ),
            )
        ]
    )
