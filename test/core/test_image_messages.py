"""Images survive the way from message to array and back, in every layout a driver may choose."""

import array
import sys
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.image_messages import LAYOUTS, EncodingError, MessageError
from fusionproxy_ros.geometry.camera_info import intrinsics, read_camera_info

NATIVE_BIG = sys.byteorder == "big"


def header(stamp_ns=1_500_000_000):
    sec, nanosec = divmod(stamp_ns, 10**9)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera")


def image(pixels, encoding, pad=0, big=NATIVE_BIG):
    """What a driver would send: rows padded by `pad` bytes of rubbish, in either byte order."""
    h, w = pixels.shape[:2]
    rows = (
        np.ascontiguousarray(pixels if big == NATIVE_BIG else pixels.byteswap()).view(np.uint8).reshape(h, -1)
    )
    rows = np.hstack([rows, np.full((h, pad), 0xAB, np.uint8)])
    return SimpleNamespace(
        header=header(), height=h, width=w, encoding=encoding, is_bigendian=int(big), step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )  # fmt: skip


def empty_image():
    return SimpleNamespace(
        header=None, height=0, width=0, encoding="", is_bigendian=0, step=0, data=array.array("B")
    )


@st.composite
def pictures(draw, encodings=tuple(LAYOUTS)):
    encoding = draw(st.sampled_from(encodings))
    dtype, channels = LAYOUTS[encoding]
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    raw = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(
        0, 256, h * w * channels * 4, np.uint8
    )
    if dtype == np.float32:
        pixels = raw.astype(np.float32)[: h * w * channels] * 0.37
    else:
        pixels = raw.view(dtype)[: h * w * channels]
    return encoding, pixels.reshape((h, w, channels) if channels > 1 else (h, w))


@given(pictures(), st.integers(0, 7), st.booleans())
def test_pixels_of_every_encoding_are_read_whatever_the_padding_and_byte_order(picture, pad, big):
    encoding, pixels = picture
    np.testing.assert_array_equal(image_messages.read_pixels(image(pixels, encoding, pad, big)), pixels)


@given(pictures())
def test_every_encoding_comes_back_from_a_round_trip(picture):
    encoding, pixels = picture
    msg = image_messages.fill_image(empty_image(), header(), pixels, encoding)
    assert msg.step * msg.height == len(msg.data)
    np.testing.assert_array_equal(image_messages.read_pixels(msg), pixels)


def test_a_plain_image_is_read_without_a_copy():
    msg = image(np.zeros((4, 6, 3), np.uint8), "rgb8")
    image_messages.read_rgb(msg).pixels[2, 3] = (1, 2, 3)
    assert list(msg.data)[(2 * 6 + 3) * 3 :][:3] == [1, 2, 3]


@given(pictures(("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC1", "8UC3")))
def test_colour_keeps_its_channel_order_loses_alpha_and_grey_becomes_three_equal_channels(picture):
    encoding, pixels = picture
    frame = image_messages.read_rgb(image(pixels, encoding))
    assert frame.encoding == ("bgr8" if encoding in ("bgr8", "bgra8", "8UC3") else "rgb8")
    np.testing.assert_array_equal(
        frame.pixels, pixels[..., :3] if pixels.ndim == 3 else np.dstack([pixels] * 3)
    )
    assert frame.pixels.flags.c_contiguous and (frame.stamp_ns, frame.frame_id) == (1_500_000_000, "camera")


@given(pictures(("mono8", "8UC1", "mono16", "16UC1", "32FC1")), st.booleans())
def test_thermal_keeps_its_counts(picture, big):
    encoding, pixels = picture
    frame = image_messages.read_thermal(image(pixels, encoding, big=big))
    assert frame.pixels.dtype == pixels.dtype and frame.pixels.dtype.isnative
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("step", 5, "step 5 is smaller than a row of 18"),
        ("height", 0, "empty"),
        ("data", b"123", "truncated: 3 of 72"),
    ],
)
def test_a_broken_image_is_refused_with_the_numbers(field, value, told):
    msg = image(np.zeros((4, 6, 3), np.uint8), "rgb8")
    setattr(msg, field, value)
    with pytest.raises(MessageError, match=told):
        image_messages.read_rgb(msg)


def test_an_unknown_encoding_goes_through_cv_bridge_or_names_it():
    msg = image(np.zeros((4, 6), np.uint8), "bayer_rggb8")
    try:
        import cv_bridge  # noqa: F401
    except ImportError:
        with pytest.raises(EncodingError, match=r"bayer_rggb8.*install ros-.*cv-bridge"):
            image_messages.read_rgb(msg)
    else:
        assert image_messages.read_rgb(msg).pixels.shape == (4, 6, 3)


def test_a_sixteen_bit_rgb_camera_and_a_colour_thermal_camera_are_refused():
    with pytest.raises(EncodingError, match="publishes 'mono16'"):
        image_messages.read_rgb(image(np.zeros((4, 6), np.uint16), "mono16"))
    with pytest.raises(MessageError, match="thermal is 'rgb8'"):
        image_messages.read_thermal(image(np.zeros((4, 6, 3), np.uint8), "rgb8"))


def test_thermal_without_a_stamp_is_refused():
    msg = image(np.zeros((4, 6), np.uint16), "mono16")
    msg.header = header(0)
    with pytest.raises(MessageError, match="stamp is zero"):
        image_messages.read_thermal(msg)


def compressed(suffix, pixels, text):
    data = array.array("B", cv2.imencode(suffix, pixels)[1].tobytes())
    return SimpleNamespace(header=header(), format=text, data=data)


def test_compressed_rgb_and_png_thermal_are_read():
    rgb = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    frame = image_messages.read_rgb(compressed(".png", rgb, "rgb8; png compressed bgr8"))
    np.testing.assert_array_equal(frame.pixels, rgb)
    assert frame.encoding == "bgr8"
    thermal = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    np.testing.assert_array_equal(
        image_messages.read_thermal(compressed(".png", thermal, "mono16; png compressed")).pixels, thermal
    )


def test_compressed_thermal_jpeg_and_garbage_are_refused():
    with pytest.raises(MessageError, match="lossy"):
        image_messages.read_thermal(compressed(".jpg", np.zeros((8, 8), np.uint8), "mono8; jpeg compressed"))
    for data in (b"", b"no image"):
        with pytest.raises(MessageError, match="cannot be decoded"):
            image_messages.read_rgb(SimpleNamespace(header=header(), format="jpeg", data=data))


def test_a_compressed_image_that_claims_an_absurd_size_is_refused():
    data = bytearray(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of the IHDR chunk
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(MessageError, match="cannot be decoded"):
        image_messages.read_rgb(SimpleNamespace(header=header(), format="png", data=bytes(data)))


def roi(x_offset=0, y_offset=0, width=0, height=0):
    return SimpleNamespace(x_offset=x_offset, y_offset=y_offset, width=width, height=height)


def camera_info(**changes):
    k, p = np.diag([500.0, 510.0, 1.0]), np.hstack([np.diag([400.0, 410.0, 1.0]), [[9.0], [0.0], [0.0]]])
    fields = {"width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.1, 0, 0, 0, 0]}
    fields |= {"binning_x": 0, "binning_y": 0, "roi": roi()}
    return SimpleNamespace(**fields | {"k": list(k.ravel()), "p": list(p.ravel())} | changes)


def test_camera_info_of_a_raw_image_is_k_and_d_and_of_a_rectified_one_p():
    raw, rectified = (read_camera_info(camera_info(), flag) for flag in (False, True))
    assert (raw.k[0, 0], raw.k[1, 1], raw.d[0], raw.width_px) == (500, 510, 0.1, 640)
    assert (rectified.k[0, 0], rectified.k[1, 1]) == (400, 410) and not rectified.d.any()
    assert rectified.k.shape == (3, 3)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_binned_region_of_interest_sees_a_ray_where_its_pixels_lie_in_the_full_image(rectified):
    full = read_camera_info(camera_info(), rectified)
    part = read_camera_info(camera_info(roi=roi(100, 60, 480, 360), binning_x=2, binning_y=3), rectified)
    assert (part.width_px, part.height_px) == (240, 120)
    ray = np.array([0.07, -0.03, 1.0])
    x, y = (full.k @ ray)[:2]
    # Pixel i of the part averages the full image's columns 100 + 2 i and the next: its centre is between them.
    i, j = (part.k @ ray)[:2]
    assert (100 + 2 * i + 0.5, 60 + 3 * j + 1) == pytest.approx((x, y))


def test_an_uncalibrated_camera_info_stays_recognisable():
    blank = camera_info(k=[0.0] * 9, roi=roi(10, 10, 100, 100), binning_x=2, binning_y=2)
    assert not read_camera_info(blank).k.any()


def depth_message(pixels, encoding):
    height, width = pixels.shape
    step, data = pixels.strides[0], pixels.tobytes()
    return SimpleNamespace(
        header=header(), height=height, width=width, encoding=encoding, step=step, data=data, is_bigendian=0
    )


def test_depth_in_millimetres_and_in_metres_is_the_same_depth():
    mm = np.array([[0, 1500], [20_000, 65_535]], np.uint16)
    metres = image_messages.read_depth(depth_message(mm.astype(np.float32) / 1000, "32FC1")).pixels
    for encoding in ("16UC1", "mono16"):
        frame = image_messages.read_depth(depth_message(mm, encoding))
        np.testing.assert_allclose(frame.pixels, metres)
        assert frame.pixels.dtype == np.float32 and frame.encoding == "32FC1"


def test_depth_in_another_encoding_is_refused():
    with pytest.raises(MessageError, match="depth is 'mono8': publish 16UC1 in mm or 32FC1 in m"):
        image_messages.read_depth(depth_message(np.zeros((4, 4), np.uint8), "mono8"))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 320},
        {"k": [1.0] * 9},
        {"p": [1.0] * 12},
        {"d": []},
        {"binning_x": 2},
        {"roi": roi(0, 8, 640, 400)},
    ],
)
def test_a_changed_calibration_is_noticed_and_an_equal_one_is_not(change):
    assert intrinsics(camera_info()) == intrinsics(camera_info())
    assert intrinsics(camera_info(**change)) != intrinsics(camera_info())
