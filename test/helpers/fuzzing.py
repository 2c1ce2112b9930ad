"""Messages that no driver should send, and good ones between them; shared by the tests of core and live node.

A message is its topic and a dict of its fields, whose values may lie outside what ROS allows. It begins sound and
is then corrupted in at most three places, so that each check of the package is reached through all those before it.
"""

import random
import zlib
from array import array

import cv2
import numpy as np

from fusionproxy_ros.core.image_messages import LAYOUTS

NS_PER_S = 1_000_000_000
PERIOD_NS = 10_000_000  # between the stamps of two messages
RGB_PX, THERMAL_PX = (48, 36), (40, 30)
FLT_MAX = float(np.finfo(np.float32).max)
INFOS = ("rgb_info", "thermal_info")
# Every third message is RGB, the one that has to be answered.
TOPICS = ("rgb", "thermal", "rgb_info", "rgb", "thermal", "thermal_info", "rgb", "thermal", "depth")

TEXTS = (
    "", " ", "RGB8", "rgb8\0", "rgb8\n[ERROR] forged", "\x1b[2J", "mono8; rm -rf /", "bayer_rggb8", "yuv422", "64FC1",
    "16SC1", "🌡️\u202e", "\ufffd" * 5, "%s%n{0}", "x" * 10_000, "../../etc/passwd",
)  # fmt: skip
SIDES_PX = (0, 1, 2, 3, 31, 33, 64, 257, 32_766, 32_767, 40_000, 2**31, 2**32 - 1)
COUNTS = (0, 1, 2, 3, 255, 2**16, 2**31, 2**32 - 1)
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-310, 1e-30, 1e6, 1e30, FLT_MAX, 1e300, -1e300,
    float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
MODELS = ("plumb_bob", "rational_polynomial", "equidistant", "fisheye", "thin_prism", "", *TEXTS[3:6])
COMPRESSED = ("jpeg", "png", "rgb8; jpeg compressed bgr8", "mono16; png compressed", "tiff", *TEXTS[:5])


OTHER_FILES = (b"P5 30000 30000 255\n", b"BM" + b"\xff" * 64, b"\x89PNG", b"II*\0", b"\xff\xd8\xff")


class Fuzzer:
    """An endless, seeded stream of messages: next(fuzzer) -> (topic, fields)."""

    def __init__(self, seed: int, compressed: bool = False):
        self._random, self._rng = random.Random(seed), np.random.default_rng(seed)
        self._compressed = compressed
        self._stamp_ns = 1_000 * NS_PER_S
        self._count = 0

    def __iter__(self):
        return self

    def __next__(self) -> tuple[str, dict]:
        topic = TOPICS[self._count % len(TOPICS)]
        self._count += 1
        self._stamp_ns += PERIOD_NS
        if topic in INFOS:
            make, breaks = self._info, INFO_BREAKS
        elif self._compressed and topic != "depth":
            make, breaks = self._compressed_image, COMPRESSED_BREAKS
        else:
            make, breaks = self._image, IMAGE_BREAKS
        fields = make(topic) | {"stamp_ns": self._stamp_ns, "frame_id": f"{topic}{self._count}"}
        counts = (
            (0, 0, 0, 0, 1, 1, 2) if topic in INFOS else (0, 0, 1, 1, 1, 2, 3)
        )  # a broken calibration lasts
        for name in self._random.sample(sorted(breaks), self._random.choice(counts)):
            fields[name] = breaks[name](self, fields)
        return topic, fields

    # --- sound messages

    def _image(self, topic: str) -> dict:
        encoding = {"rgb": "rgb8", "thermal": "mono16", "depth": "32FC1"}[topic]
        size_px = THERMAL_PX if topic == "thermal" else RGB_PX
        if self._random.random() < 0.3:  # another one, and its layout sound all the same
            encoding = self._random.choice(sorted(LAYOUTS))
            size_px = self._random.choice((size_px, (1, 1), (64, 2), (3, 40_000), (33_000, 2), (7, 5)))
        dtype, channels = LAYOUTS[encoding]
        width, height = size_px
        row = width * channels * np.dtype(dtype).itemsize
        step = row + self._random.choice((0, 0, 0, 1, 8))
        data = self._bytes(step * height, np.dtype(dtype))
        return {
            **{"height": height, "width": width, "encoding": encoding, "is_bigendian": 0},
            **{"step": step, "data": data},
        }

    def _bytes(self, count: int, dtype: np.dtype) -> array:
        """Pixels at random, alike, or of values that arithmetic trips over."""
        kind = self._random.choice(("noise", "noise", "flat", "extreme"))
        if kind == "noise" and dtype != np.float32:
            data = self._rng.bytes(count)
        elif kind == "flat":
            data = bytes([self._random.choice((0, 255, 1, 128))]) * count
        else:  # 32FC1 in kelvin, or whatever else these bytes mean
            values = (300.0, 300.5, 310.0) if kind == "noise" else FLOATS
            with np.errstate(over="ignore"):
                data = self._rng.choice(np.array(values, np.float32), count // 4 + 1).tobytes()[:count]
        return array("B", data)

    def _compressed_image(self, topic: str) -> dict:
        shape = (*RGB_PX[::-1], 3) if topic == "rgb" else THERMAL_PX[::-1]
        dtype = np.uint8 if topic == "rgb" or self._random.random() < 0.3 else np.uint16
        pixels = self._rng.integers(0, 255, shape).astype(dtype)
        suffix = self._random.choice((".jpg", ".png")) if topic == "rgb" else ".png"
        data = cv2.imencode(suffix, pixels)[1].tobytes()
        text = {".jpg": "jpeg", ".png": "png"}[suffix]
        return {"format": f"mono16; {text} compressed", "data": array("B", data)}

    def _info(self, topic: str) -> dict:
        width, height = RGB_PX if topic == "rgb_info" else THERMAL_PX
        k = [40.0, 0.0, width / 2, 0.0, 40.0, height / 2, 0.0, 0.0, 1.0]
        model, count = self._random.choice((("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4)))
        return {
            **{"height": height, "width": width, "distortion_model": model, "d": [0.01] * count},
            **{"k": k, "r": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0], "p": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]},
            **{"binning_x": 0, "binning_y": 0, "roi": (0, 0, 0, 0)},
        }

    # --- what goes wrong with a field; `fields` are those it has so far

    def _stamp(self, fields) -> int:
        return self._random.choice(
            (0, 1, -5 * NS_PER_S, self._stamp_ns - 3600 * NS_PER_S, self._stamp_ns + NS_PER_S, 2**31 * NS_PER_S - 1)
        )  # fmt: skip

    def _frame_id(self, fields) -> str:
        return f"{self._count} {self._random.choice(TEXTS)}"  # for the live test: still this message's alone

    def _side(self, fields) -> int:
        return self._random.choice(SIDES_PX)

    def _count_of(self, fields) -> int:
        return self._random.choice(COUNTS)

    def _encoding(self, fields) -> str:
        return self._random.choice((*TEXTS, *sorted(LAYOUTS), "\udcff"))

    def _model(self, fields) -> str:
        return self._random.choice(MODELS)

    def _format(self, fields) -> str:
        return self._random.choice(COMPRESSED)

    def _data(self, fields) -> array:
        data, at = fields["data"], self._random.randrange(len(fields["data"]) + 1)
        how = self._random.choice(("none", "short", "long", "flipped"))
        if how == "none":
            return array("B")
        if how == "short":
            return data[:at]
        if how == "long":
            return data + data[:at] + array("B", b"\0")
        flipped = array("B", data)
        for index in self._random.choices(range(len(data)), k=8) if data else ():
            flipped[index] ^= 1 << self._random.randrange(8)
        return flipped

    def _compressed_data(self, fields) -> array:
        how = self._random.random()
        if how < 0.3:
            announced_px = self._random.choices((0, 1, 9_000, 65_000), k=2)
            return array("B", with_announced_size(fields["data"].tobytes(), *announced_px))
        if how < 0.5:
            return array("B", self._random.choice(OTHER_FILES))
        return self._data(fields)

    def _numbers(self, name: str):
        def numbers(fields) -> list[float]:
            values = list(fields[name])
            for index in self._random.choices(range(len(values)), k=self._random.choice((1, 1, 2, 9))):
                values[index] = self._random.choice(FLOATS)
            return values

        return numbers

    def _d(self, fields) -> list[float]:
        length = self._random.choice((0, 1, 3, 4, 5, 8, 12, 14, 15, 1000))
        return self._random.choices((*FLOATS, -0.3, 0.1, 2.0), k=length)

    def _roi(self, fields) -> tuple:
        return tuple(self._random.choices((0, 1, 8, 24, 2**32 - 1), k=4))


HEADER_BREAKS = {"stamp_ns": Fuzzer._stamp, "frame_id": Fuzzer._frame_id}
IMAGE_BREAKS = HEADER_BREAKS | {
    "height": Fuzzer._side,
    "width": Fuzzer._side,
    "step": Fuzzer._side,
    "encoding": Fuzzer._encoding,
    "is_bigendian": lambda self, fields: self._random.choice((1, 7, 255, 256, -1)),
    "data": Fuzzer._data,
}
COMPRESSED_BREAKS = HEADER_BREAKS | {"format": Fuzzer._format, "data": Fuzzer._compressed_data}
INFO_BREAKS = HEADER_BREAKS | {
    "height": Fuzzer._side,
    "width": Fuzzer._side,
    "distortion_model": Fuzzer._model,
    "d": Fuzzer._d,
    **{name: lambda self, fields, name=name: self._numbers(name)(fields) for name in ("k", "r", "p")},
    "binning_x": Fuzzer._count_of,
    "binning_y": Fuzzer._count_of,
    "roi": Fuzzer._roi,
}


def with_announced_size(data: bytes, width: int, height: int) -> bytes:
    """A PNG or JPEG file whose header announces another size, in pixels; other files as they are."""
    data = bytearray(data)
    if data.startswith(b"\x89PNG") and len(data) > 33:
        data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif data.startswith(b"\xff\xd8") and 0 < (at := data.find(b"\xff\xc0")) < len(data) - 9:
        data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)
