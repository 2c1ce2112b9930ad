"""Geometry worked out by hand, without the package's helpers or OpenCV's camera models; what tests draw."""

import cv2
import numpy as np
from hypothesis import strategies as st

from fusionproxy_ros.geometry.camera import Calibration, Camera

RGB_PX = (320, 240)
THERMAL_PX = (160, 128)
COUNTS_PER_PX = 64.0  # slope of the ramp images


def rotation_matrix(rx, ry, rz):
    cx, sx, cy, sy, cz, sz = np.cos(rx), np.sin(rx), np.cos(ry), np.sin(ry), np.cos(rz), np.sin(rz)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def by_hand(camera, x, y):
    """Pixel of the ray (x, y, 1): Brown-Conrady, rational and Kannala-Brandt, straight from the papers."""
    d = camera.d
    if not d.any():
        xd, yd = x, y
    elif camera.distortion_model == "equidistant":
        r = np.sqrt(x**2 + y**2)
        theta = np.arctan(r)
        theta_d = theta + d[0] * theta**3 + d[1] * theta**5 + d[2] * theta**7 + d[3] * theta**9
        scale = np.where(r > 0, theta_d / np.where(r > 0, r, 1), 1)
        xd, yd = x * scale, y * scale
    else:
        r2 = x**2 + y**2
        k3 = d[4] if len(d) > 4 else 0.0
        scale = 1 + d[0] * r2 + d[1] * r2**2 + k3 * r2**3
        if len(d) == 8:
            scale = scale / (1 + d[5] * r2 + d[6] * r2**2 + d[7] * r2**3)
        xd = x * scale + 2 * d[2] * x * y + d[3] * (r2 + 2 * x**2)
        yd = y * scale + d[2] * (r2 + 2 * y**2) + 2 * d[3] * x * y
    return camera.k[0, 0] * xd + camera.k[0, 2], camera.k[1, 1] * yd + camera.k[1, 2]


def expected_positions(calibration, depth_m, x, y):
    """RGB pixel, thermal pixel and tan(angle to the thermal axis) of where (x, y, 1) meets z = depth_m."""
    u, v = by_hand(calibration.rgb, x, y)
    point = np.stack([depth_m * x, depth_m * y, np.full_like(x, depth_m)])
    px, py, pz = calibration.rotation @ point + calibration.translation_m[:, None]
    tx, ty = by_hand(calibration.thermal, px / pz, py / pz)
    return u, v, tx, ty, np.hypot(px, py) / pz


def sampled_positions(reg, thermal_px=THERMAL_PX, rgb_px=RGB_PX, depth_m=None):
    """Where each RGB pixel sampled the thermal image, read off registered ramp images; and the mask."""
    ramp_x, ramp_y = np.meshgrid(*(np.arange(n, dtype=np.float32) * COUNTS_PER_PX for n in thermal_px))
    x, y = reg.register(ramp_x, rgb_px, depth_m), reg.register(ramp_y, rgb_px, depth_m)
    mask = np.ones(rgb_px[::-1], bool) if x.mask is None else x.mask
    return x.pixels / COUNTS_PER_PX, y.pixels / COUNTS_PER_PX, mask


def interpolate(image, u, v):
    """Bilinear, at points inside the image."""
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    a, b = v - i, u - j
    top = (1 - b) * image[i, j] + b * image[i, j + 1]
    return (1 - a) * top + a * ((1 - b) * image[i + 1, j] + b * image[i + 1, j + 1])


def camera_matrix(size_px, focal_share, dx, dy):
    width, height = size_px
    f = focal_share * width
    return np.array([[f, 0, width * (0.5 + dx)], [0, 1.02 * f, height * (0.5 + dy)], [0, 0, 1]])


@st.composite
def cameras(draw, size_px):
    def number(low, high):
        return draw(st.floats(low, high, allow_nan=False))

    model = draw(st.sampled_from(["none", "plumb_bob", "rational_polynomial", "equidistant"]))
    k = camera_matrix(size_px, number(0.7, 1.5), number(-0.05, 0.05), number(-0.05, 0.05))
    if model == "none":
        return Camera(*size_px, k)
    if model == "equidistant":
        d = [number(-0.05, 0.05), number(-0.02, 0.02), number(-0.01, 0.01), number(-0.005, 0.005)]
    else:
        d = [number(-0.3, 0.3), number(-0.1, 0.1), number(-0.003, 0.003), number(-0.003, 0.003)]
        d += [number(-0.05, 0.05)] if model == "plumb_bob" else [number(-0.03, 0.03) for _ in range(4)]
    return Camera(*size_px, k, model, np.array(d))


@st.composite
def calibrations(draw):
    angles = [draw(st.floats(-0.15, 0.15)) for _ in range(3)]
    translation_m = np.array([draw(st.floats(-0.3, 0.3)) for _ in range(3)])
    return Calibration(
        draw(cameras(RGB_PX)), draw(cameras(THERMAL_PX)), rotation_matrix(*angles), translation_m
    )


def simple_calibration(**thermal):
    rgb = Camera(*RGB_PX, camera_matrix(RGB_PX, 0.8, 0, 0))
    camera = Camera(
        **{"width_px": 160, "height_px": 128, "k": camera_matrix(THERMAL_PX, 0.8, 0, 0)} | thermal
    )
    return Calibration(rgb, camera, np.eye(3), np.array([0.1, 0.0, 0.0]))


def street(size_px, shift_px=(0, 0)):
    """RGB, and thermal of inverted contrast that lies off it by `shift_px`: blocks of many sizes and places."""
    width, height = size_px
    canvas = np.full((height + 80, width + 80), 90, np.uint8)
    rng = np.random.default_rng(3)
    for _ in range(120):
        x, y = rng.integers(0, width + 60), rng.integers(0, height + 60)
        w, h = rng.integers(8, 60, 2)
        canvas[y : y + h, x : x + w] = rng.integers(20, 230)
    noise = rng.normal(0, 2, (2, height, width))
    dx, dy = shift_px
    rgb = canvas[40 : 40 + height, 40 : 40 + width] + noise[0]
    thermal = 255 - canvas[40 - dy : 40 - dy + height, 40 - dx : 40 - dx + width] + noise[1]
    return (np.clip(p, 0, 255).astype(np.uint8) for p in (rgb, thermal))


def outlines(contrast, seed=0, shape=(160, 213), signs=(-1, 1)):
    """(H, W) uint8: the same rectangles for every `contrast`, lighter or darker than the ground as `signs` allow."""
    rng, picture = np.random.default_rng(seed), np.full(shape, 120, np.float32)
    for _ in range(40):
        centre = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        corners = cv2.boxPoints((centre, rng.uniform(5, 40, 2).tolist(), rng.uniform(0, 90))).astype(np.int32)
        cv2.fillConvexPoly(picture, corners, 120 + contrast * float(rng.choice(signs)), cv2.LINE_AA)
    return np.rint(picture).astype(np.uint8)
