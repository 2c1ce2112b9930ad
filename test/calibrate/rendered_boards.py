"""A board before a known rig: where its corners lie, and what both cameras see of it."""

from functools import lru_cache

import cv2
import numpy as np

from fusionproxy_ros.calibrate.board import Board
from fusionproxy_ros.geometry import lens
from fusionproxy_ros.geometry.camera import Calibration, Camera

BOARD = Board("checkerboard", 9, 6, 0.03)
RGB = Camera(640, 480, np.array([[900.0, 0, 330], [0, 900, 230], [0, 0, 1]]), d=np.array([-0.25, 0.1, 0, 0]))
THERMAL = Camera(
    400, 320, np.array([[520.0, 0, 195], [0, 520, 165], [0, 0, 1]]), d=np.array([-0.3, 0.12, 0, 0])
)
TRUTH = Calibration(
    RGB, THERMAL, cv2.Rodrigues(np.array([0.02, 0.09, 0.01]))[0], np.array([-0.08, 0.01, 0.005])
)
# Rotation vectors (degrees) and the board's centre (metres) before the RGB camera.
POSES = [
    ((0, 0, 0), (0, 0, 0.60)),
    ((35, 0, 5), (-0.05, -0.03, 0.62)),
    ((-35, 5, 0), (0.05, 0.04, 0.60)),
    ((0, 35, -8), (0.04, -0.05, 0.58)),
    ((5, -38, 0), (-0.06, 0.05, 0.62)),
    ((25, 25, 20), (0.0, 0.03, 0.70)),
    ((-25, 28, -25), (0.06, 0.0, 0.75)),
    ((20, -30, 80), (0.02, 0.0, 0.68)),
    ((-15, 15, 45), (-0.08, -0.06, 0.85)),
    ((30, -10, -45), (0.10, 0.08, 0.90)),
    ((10, 30, 0), (0.12, -0.10, 0.95)),
    ((-30, -20, 10), (-0.12, 0.10, 0.90)),
]


def pose(index, board=BOARD):
    """Rotation and translation, board to RGB camera; the board's centre at the given place."""
    turn, centre_m = POSES[index]
    rotation = cv2.Rodrigues(np.radians(np.array(turn, float)))[0]
    return rotation, np.array(centre_m) - rotation @ board.points_m().mean(axis=0)


def to_thermal(rotation, translation_m, truth=TRUTH):
    return truth.rotation @ rotation, truth.rotation @ translation_m + truth.translation_m


def corners(camera, rotation, translation_m, board=BOARD):
    return lens.project(camera, board.points_m() @ rotation.T + translation_m)[0]


def pattern(board, x, y):
    """1 where the board is dark (square or circle), 0 elsewhere on it, NaN off it; x, y in spacings."""
    columns, rows = board.points_m()[:, :2].max(axis=0) / board.square_m
    on_board = (x > -2) & (x < columns + 2) & (y > -2) & (y < rows + 2)
    if board.pattern == "checkerboard":
        squares = (x > -1) & (x < columns + 1) & (y > -1) & (y < rows + 1)
        dark = squares & ((np.floor(x) + np.floor(y)) % 2 == 0)
    else:
        points = board.points_m()[:, :2] / board.square_m
        radius = 0.3 if board.pattern == "circles" else 0.5
        dark = np.zeros(x.shape, bool)
        for px, py in points:
            dark |= (x - px) ** 2 + (y - py) ** 2 < radius**2
    return np.where(on_board, dark.astype(np.float32), np.float32(np.nan))


@lru_cache(maxsize=4)
def ray_grid(camera, oversample):
    """(H * W * oversample^2, 3) rays of a camera's pixels."""
    width, height = camera.width_px * oversample, camera.height_px * oversample
    u, v = np.meshgrid(
        (np.arange(width) + 0.5) / oversample - 0.5, (np.arange(height) + 0.5) / oversample - 0.5
    )
    rays = lens.rays(camera, np.column_stack([u.ravel(), v.ravel()]))[0]
    return np.column_stack([rays, np.ones(len(rays))])


def render(camera, rotation, translation_m, board=BOARD, dark=30.0, light=220.0, around=120.0, oversample=3):
    """(H, W) float32: what the camera sees of the board, box-filtered."""
    rays = ray_grid(camera, oversample)
    normal = rotation[:, 2]
    points_m = rays * (normal @ translation_m / (rays @ normal))[:, None]
    x, y, _ = ((points_m - translation_m) @ rotation / board.square_m).T
    shade = pattern(board, x, y).reshape(camera.height_px * oversample, -1)
    picture = np.where(np.isnan(shade), around, light + (dark - light) * np.nan_to_num(shade))
    return cv2.resize(
        picture.astype(np.float32), (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA
    )


def counts(picture, seed=0, noise=15.0):
    """16-bit counts: a warm spot and a gradient far above the board's own contrast, and noise."""
    height, width = picture.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    spot = 4000 * np.exp(
        -(((x - 0.6 * width) / (0.35 * width)) ** 2 + ((y - 0.5 * height) / (0.4 * height)) ** 2)
    )
    picture = 20000 + picture + spot + 2000 * x / width
    return (picture + np.random.default_rng(seed).normal(0, noise, picture.shape)).astype(np.uint16)


def thermal_view(index, dark, light, around, **more):
    where = to_thermal(*pose(index))
    return counts(render(THERMAL, *where, dark=dark, light=light, around=around), index, **more), corners(
        THERMAL, *where
    )


def turn_deg(a, b):
    return np.degrees(np.linalg.norm(cv2.Rodrigues(a @ b.T)[0]))
