"""Small recordings for tests: written by the libraries that users' recorders are, not by ours."""

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_KILTED)
IMAGE, INFO, TFS, STRING = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CameraInfo",
    "tf2_msgs/msg/TFMessage",
    "std_msgs/msg/String",
)
PERIOD_NS = 33_333_333
START_NS = 1_700_000_000_000_000_000


def header(stamp_ns, frame_id="camera"):
    stamp = TYPES.types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return TYPES.types["std_msgs/msg/Header"](stamp, frame_id)


def image(stamp_ns, pixels, encoding, frame_id="camera"):
    pixels = np.ascontiguousarray(pixels)
    data = pixels.reshape(-1).view(np.uint8)
    return TYPES.types[IMAGE](
        header(stamp_ns, frame_id), *pixels.shape[:2], encoding, 0, pixels.strides[0], data
    )


def string(text):
    return TYPES.types[STRING](text)


def textures(count, shape=(96, 128), seed=0):
    """Pairs of random RGB (H, W, 3) and thermal (H, W) uint8 images."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, (*shape, 3)).astype(np.uint8), rng.integers(0, 256, shape).astype(np.uint8))
        for _ in range(count)
    ]


def camera_stream(pairs, rgb_topic="/rgb/image_raw", thermal_topic="/thermal/image_raw", start_ns=START_NS):
    """(topic, type, log_ns, message) of two cameras that expose together, at 30 Hz."""
    for n, (rgb, thermal) in enumerate(pairs):
        stamp_ns = start_ns + n * PERIOD_NS
        encoding = "mono8" if thermal.dtype == np.uint8 else "mono16"
        yield rgb_topic, IMAGE, stamp_ns + 1_000_000, image(stamp_ns, rgb, "rgb8", "rgb")
        yield thermal_topic, IMAGE, stamp_ns + 2_000_000, image(stamp_ns, thermal, encoding, "thermal")


def write_bag(path, stream, storage="MCAP", compression="NONE", types=TYPES):
    """A rosbag2 folder by rosbags' writer; returns it."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, log_ns, message in stream:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=types)
            writer.write(connections[topic], log_ns, types.serialize_cdr(message, kind))
    return path


def write_mcap(path, stream, compression=CompressionType.NONE, chunk_bytes=1 << 16):
    """An MCAP file with checksums by the mcap library, as `ros2 bag record` writes them; returns it."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_bytes, compression=compression)
        writer.start("ros2", "test")
        channels = {}
        for topic, kind, log_ns, message in stream:
            if topic not in channels:
                definition = TYPES.generate_msgdef(kind, ros_version=2)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", definition)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(TYPES.serialize_cdr(message, kind))
            writer.add_message(channels[topic], log_ns, data, log_ns)
        writer.finish()
    return path
