"""sensor_msgs Image, CompressedImage and CameraInfo <-> frames.

Messages are taken by their fields, so nothing of ROS is imported here. Reading copies no pixel unless the layout
forces it (padded rows, foreign byte order, a dropped alpha channel); writing copies once.
"""

import sys

import cv2
import numpy as np

from fusionproxy_ros.core.errors import FusionError, shown
from fusionproxy_ros.core.frames import NS_PER_S, Frame

# encoding -> (dtype, channels). 8UC1 and 8UC3 are OpenCV's names; it means BGR by the latter.
LAYOUTS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "8UC3": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
THERMAL_ENCODINGS = {
    np.dtype(np.uint8): "mono8",
    np.dtype(np.uint16): "mono16",
    np.dtype(np.float32): "32FC1",
}
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # first bytes of the files that are decoded
MAX_COMPRESSED_PX = 1 << 26  # a few kB may announce gigabytes; cameras have less than that


class MessageError(FusionError):
    """The message cannot be read as an image; the text says why and what to publish instead."""


class EncodingError(MessageError):
    """The message may be sound, but not in an encoding that this package reads."""


def stamp_to_ns(stamp) -> int:
    """builtin_interfaces/Time to integer nanoseconds."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def read_pixels(msg) -> np.ndarray:
    """Pixels of a sensor_msgs/Image: (H, W) or (H, W, C), C-contiguous, native byte order.

    Shares memory with `msg.data` where the layout allows. Raises EncodingError for an unknown encoding,
    MessageError for an empty image, a step smaller than a row, or less data than step * height.
    """
    if msg.encoding not in LAYOUTS:
        raise EncodingError(
            f"encoding '{shown(msg.encoding)}' is not supported: publish one of {', '.join(LAYOUTS)}"
        )
    kind, channels = LAYOUTS[msg.encoding]
    dtype = np.dtype(kind)
    height, width, step = msg.height, msg.width, msg.step
    row = width * channels * dtype.itemsize
    if not height or not width:
        raise MessageError(f"image is empty ({width}x{height}): check the camera driver")
    if step < row:
        raise MessageError(
            f"step {step} is smaller than a row of {row} bytes: the driver fills Image.step wrongly"
        )
    if len(msg.data) < step * height:
        raise MessageError(f"data is truncated: {len(msg.data)} of {step * height} bytes")
    rows = np.frombuffer(msg.data, np.uint8, step * height).reshape(height, step)
    pixels = np.ascontiguousarray(rows[:, :row]).view(dtype)
    if dtype.itemsize > 1 and bool(msg.is_bigendian) != (sys.byteorder == "big"):
        pixels = pixels.byteswap()
    return pixels.reshape(height, width, channels) if channels > 1 else pixels.reshape(height, width)


def _bridge(msg, encoding: str) -> np.ndarray:
    """Convert through cv_bridge, which knows Bayer and YUV; EncodingError where it is missing or fails too."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise EncodingError(
            f"encoding '{shown(msg.encoding)}' needs cv_bridge, which is not installed: "
            f"install ros-$ROS_DISTRO-cv-bridge or publish one of {', '.join(LAYOUTS)}"
        ) from None
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, encoding))
    except Exception as error:
        raise EncodingError(
            f"cv_bridge cannot convert '{shown(msg.encoding)}' to {encoding}: {shown(str(error))}"
        ) from error


def _frame(msg, pixels: np.ndarray, encoding: str, arrival_ns: int) -> Frame:
    return Frame(stamp_to_ns(msg.header.stamp), msg.header.frame_id, pixels, encoding, arrival_ns, msg)


def read_rgb(msg, arrival_ns: int = 0) -> Frame:
    """Colour frame, "rgb8" or "bgr8", of a sensor_msgs/Image or CompressedImage. Raises MessageError.

    Alpha is dropped; mono8 becomes three equal channels.
    """
    if hasattr(msg, "format"):
        return _frame(msg, _decompress(msg, cv2.IMREAD_COLOR), "bgr8", arrival_ns)
    if msg.encoding not in LAYOUTS:
        return _frame(msg, _bridge(msg, "rgb8"), "rgb8", arrival_ns)
    pixels = read_pixels(msg)
    if pixels.ndim == 2:
        if pixels.dtype != np.uint8:
            raise EncodingError(f"the RGB camera publishes '{msg.encoding}': publish rgb8, bgr8 or mono8")
        return _frame(msg, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), "rgb8", arrival_ns)
    if pixels.shape[2] == 4:  # cv2's name says BGR; it only drops the fourth channel
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)
    return _frame(msg, pixels, "rgb8" if msg.encoding.startswith("rgb") else "bgr8", arrival_ns)


def take_rgb(msg, arrival_ns: int = 0) -> tuple[Frame, str]:
    """The frame that an RGB message makes, and why it can only be passed through; an empty reason where it is sound.

    Raises MessageError where there can be no output: the message is broken.
    """
    stamp_ns = stamp_to_ns(msg.header.stamp)
    try:
        frame = read_rgb(msg, arrival_ns)
    except EncodingError as error:  # downstream gets what the camera sent
        return Frame(stamp_ns, msg.header.frame_id, np.empty((0, 0)), msg.encoding, arrival_ns, msg), str(
            error
        )
    return frame, "" if stamp_ns else "RGB stamp is zero: have the driver stamp its images"


def read_thermal(msg, arrival_ns: int = 0) -> Frame:
    """One-channel frame, "mono8", "mono16" or "32FC1", of a sensor_msgs/Image or CompressedImage (PNG only).

    Raises MessageError; for JPEG because its artefacts destroy radiometric counts, for colour because a palette
    cannot be undone, for a zero stamp because it cannot be paired.
    """
    if not stamp_to_ns(msg.header.stamp):
        raise MessageError("thermal stamp is zero: have the driver stamp its images")
    if hasattr(msg, "format"):
        if "png" not in msg.format.lower() or not bytes(msg.data[:8]) == PNG:
            raise MessageError(f"thermal compressed as '{shown(msg.format)}' is lossy: publish raw or PNG")
        pixels = _decompress(msg, cv2.IMREAD_UNCHANGED)
    elif msg.encoding in LAYOUTS:
        pixels = read_pixels(msg)
    else:
        pixels = _bridge(msg, "passthrough")
    if pixels.ndim != 2 or pixels.dtype not in THERMAL_ENCODINGS:
        found = getattr(msg, "encoding", None) or msg.format
        raise MessageError(
            f"thermal is '{shown(found)}': publish one channel as mono8, mono16, 16UC1 or 32FC1"
        )
    return _frame(msg, pixels, THERMAL_ENCODINGS[pixels.dtype], arrival_ns)


def read_depth(msg, arrival_ns: int = 0) -> Frame:
    """Depth image of the RGB pixels as float32 metres, "32FC1", of 16UC1 millimetres or 32FC1 metres (REP 118).

    Raises MessageError.
    """
    pixels = read_pixels(msg)
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        pixels = pixels * np.float32(1e-3)
    elif pixels.dtype != np.float32:
        raise EncodingError(f"depth is '{shown(msg.encoding)}': publish 16UC1 in mm or 32FC1 in m")
    return _frame(msg, pixels, "32FC1", arrival_ns)


def _decompress(msg, flags: int) -> np.ndarray:
    data = np.frombuffer(msg.data, np.uint8)
    name = f"compressed image ('{shown(msg.format)}', {data.size} bytes)"
    width_px, height_px = _announced_size_px(data.tobytes())
    if width_px * height_px > MAX_COMPRESSED_PX:
        raise MessageError(f"{name} cannot be decoded: it announces {width_px}x{height_px} px")
    try:
        pixels = cv2.imdecode(data, flags) if width_px * height_px else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise MessageError(f"{name} cannot be decoded: publish PNG or JPEG")
    return pixels


def _announced_size_px(data: bytes) -> tuple[int, int]:
    """(width, height) in the header of a PNG or JPEG file; (0, 0) where it is neither, or has no header."""
    if data.startswith(PNG) and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2 if data.startswith(JPEG) else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += (
            1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        )  # a fill byte, or a segment
    return 0, 0


def fill_image(msg, header, pixels: np.ndarray, encoding: str):
    """Write `pixels`, (H, W) or (H, W, C), into the empty sensor_msgs/Image `msg`; returns it.

    frombytes into the message's own array.array is the one way rclpy fills a large field without looking at every
    element (0.15 ms at 1920x1080 rgb8; assigning an ndarray costs 312 ms).
    """
    pixels = np.ascontiguousarray(pixels)
    msg.header = header
    msg.height, msg.width = pixels.shape[:2]
    msg.encoding = encoding
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.step = pixels.strides[0]
    msg.data.frombytes(pixels.reshape(-1).view(np.uint8).data)
    return msg
