"""Makes a recording from pictures or videos, so that anyone can try footage of their own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros.bags.camera_topics import CAMERA_INFO, IMAGE
from fusionproxy_ros.bags.recording import Topic, typestore
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.bags.writing import TRANSIENT, BagWriter, image_message
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_files import partners_in, read_rgb_file, read_thermal_file
from fusionproxy_ros.core.image_messages import THERMAL_ENCODINGS
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.geometry.camera_info import camera_info_fields
from fusionproxy_ros.geometry.static_transforms import TF_STATIC

Types = dict[str, Any]  # a typestore's classes by name
PicturePair = tuple[np.ndarray, np.ndarray]
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
    pairs, count, own_hz = (_of_folders if rgb.is_dir() else _of_videos)(rgb, thermal)
    pairs = tqdm(pairs, total=count, desc=out.name, unit="pair")
    return write_pairs(pairs, out, hz or own_hz, calibration, storage)


def write_pairs(
    pairs: Iterable[PicturePair],
    out: Path,
    hz: float,
    calibration: Calibration | None = None,
    storage: str = "mcap",
) -> int:
    """Write pairs, (H, W, 3) uint8 BGR and (h, w) uint8, uint16 or float32, exposed together; their number."""
    types = typestore()
    message: Types = types.types
    full_image = message["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    topics = [Topic(f"/{camera}/image_raw", IMAGE) for camera in CAMERAS]
    if calibration:
        topics += [Topic(f"/{camera}/camera_info", CAMERA_INFO) for camera in CAMERAS]
        topics += [Topic(TF_STATIC, TFS, qos=(TRANSIENT,))]
    kinds = {topic.name: topic.type for topic in topics}
    count = 0
    with BagWriter(out, storage, "none", topics, types, {"made": str(out)}) as writer:
        done = writer.done

        def write(name: str, log_ns: int, msg: Any) -> None:
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
                    fields = camera_info_fields(getattr(calibration, camera))
                    info = message[CAMERA_INFO](
                        header=header, **fields, binning_x=0, binning_y=0, roi=full_image
                    )
                    write(f"/{camera}/camera_info", stamp_ns, info)
                encoding = "bgr8" if pixels.ndim == 3 else THERMAL_ENCODINGS[pixels.dtype]
                write(f"/{camera}/image_raw", stamp_ns, image_message(types, header, pixels, encoding))
            writer.may_part()
            count += 1
        if not count:
            raise BagError(f"{out}: no pictures to put into it")
        writer.finish()
    return count


def _of_folders(rgb: Path, thermal: Path) -> tuple[Iterable[PicturePair], int, float]:
    """The pairs, their number and their rate, 30 Hz."""
    paths, lonely = partners_in(rgb, thermal)
    if lonely:
        raise BagError(f"{rgb} and {thermal} must share file names: {lonely[0]}")
    return (
        ((read_rgb_file(of_rgb), read_thermal_file(of_thermal)) for of_rgb, of_thermal in paths.values()),
        len(paths),
        30.0,
    )


def _of_videos(rgb: Path, thermal: Path) -> tuple[Iterable[PicturePair], int, float]:
    """The pairs, their number and their rate, as far as the RGB video says."""
    videos = [cv2.VideoCapture(str(path)) for path in (rgb, thermal)]
    for path, video in zip((rgb, thermal), videos, strict=True):
        if not video.isOpened():
            raise BagError(f"{path}: not a readable video, nor a folder of images")
    count = int(videos[0].get(cv2.CAP_PROP_FRAME_COUNT))
    return _frames(videos, rgb, thermal), count, videos[0].get(cv2.CAP_PROP_FPS)


def _frames(videos: Sequence[cv2.VideoCapture], rgb: Path, thermal: Path) -> Iterator[PicturePair]:
    while True:
        (more_rgb, colour), (more_thermal, grey) = (video.read() for video in videos)
        if more_rgb != more_thermal:
            raise BagError(f"{rgb} and {thermal} have different numbers of frames: cut them alike")
        if not more_rgb:
            return
        yield colour, grey[..., 1]  # grey came in three channels


def _transform(message: Types, headers: Sequence[Any], calibration: Calibration) -> Any:
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
