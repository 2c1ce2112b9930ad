"""Registration by depth: each RGB pixel at its own distance, and what the thermal camera cannot see of it.

Conventions as in registration.py."""

from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import numpy as np

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.lens import MIN_DEPTH_M, Size, project, radial_table, rays, scaled
from fusionproxy_ros.geometry.registration import (
    FEATHER_PX,
    MAX_GRIDS,
    Registered,
    Registration,
    checked_calibration,
    pixel_grid,
    plane_sampler,
    thermal_size_of,
)

MAX_ANGLE_DEG = 80.0  # of the thermal view registration by depth uses; its lens table is flat
OUTSIDE_PX = -1e6
MAX_LENS_CELLS = 1 << 24  # 134 MB
CELL_MARGIN = (
    1.2  # cells of the occlusion test over the spacing of RGB pixels: none stays empty inside a surface
)
HIDDEN_PX = 1.0
SMALLEST_WEIGHT = 1e-3  # of a valid pixel


def by_depth(calibration: Calibration, plane_depth_m: float, rgb_is_rectified: bool = False) -> Registration:
    """As `extrinsic`, but each pixel at its own depth where `register` is given one, and occlusions found.

    Pixels without a depth (0, NaN, infinite, negative) and frames without a depth image lie on the plane.
    The depth image is on the RGB grid, raw or rectified as the RGB image is, z along the RGB optical axis; one
    of another size is scaled to it (nearest neighbour).
    A pixel is also invalid when the thermal camera cannot see its point because a nearer one hides it.

    Convention and errors: as `extrinsic`. The thermal image may reach MAX_ANGLE_DEG off its axis.
    """
    calibration = checked_calibration(calibration, plane_depth_m, rgb_is_rectified)
    return _DepthRegistration(calibration, plane_depth_m)


# --- registration by depth


@dataclass(frozen=True, eq=False)
class _DepthView:
    """What registration by depth needs and no frame changes; float32, arrays (H, W) of the RGB grid.

    rays: (3, H, W), rotation @ ray of each pixel: depth_m * rays + translation_m is its point in the thermal
        camera's frame. found: bool, the ray exists.
    k: the thermal camera's (3, 3) without distortion, origin at the lens table's first cell.
    lens: (h, w, 2), at pixel (x, y) of an undistorted thermal image of matrix `k` the raw thermal pixel.
    cell_px: size of the occlusion test's cells, in thermal pixels.
    rgb_px_per_thermal_px: ratio of the focal lengths.
    """

    rays: np.ndarray
    found: np.ndarray
    k: np.ndarray
    lens: np.ndarray
    cell_px: int
    rgb_px_per_thermal_px: float


class _DepthRegistration(Registration):
    def __init__(self, calibration: Calibration, plane_depth_m: float, shift_px=(0.0, 0.0)):
        super().__init__(plane_sampler(calibration, plane_depth_m), shift_px)
        self._calibration, self._plane_depth_m = calibration, plane_depth_m
        self._view = lru_cache(maxsize=MAX_GRIDS)(partial(_depth_view, calibration, self.shift_px))

    def shifted(self, shift_px: tuple[float, float]) -> "Registration":
        return _DepthRegistration(self._calibration, self._plane_depth_m, shift_px)

    def prepare(self, thermal_size_px: Size, rgb_size_px: Size) -> None:
        super().prepare(thermal_size_px, rgb_size_px)
        self._view(thermal_size_px, rgb_size_px)

    def register(
        self, thermal_pixels: np.ndarray, rgb_size_px: Size, depth_m: np.ndarray | None = None
    ) -> Registered:
        if depth_m is None:
            return super().register(thermal_pixels, rgb_size_px)
        width_px, height_px = thermal_size_px = thermal_size_of(thermal_pixels)
        view = self._view(thermal_size_px, rgb_size_px)
        if depth_m.shape != rgb_size_px[::-1]:
            depth_m = cv2.resize(depth_m, rgb_size_px, interpolation=cv2.INTER_NEAREST)
        known = (depth_m > 0) & (depth_m < np.inf)  # NaN is neither
        depth_m = np.where(known, depth_m, np.float32(self._plane_depth_m))
        tx, ty, tz = self._calibration.translation_m.astype(np.float32)
        inverse_m = view.rays[2] * depth_m + tz
        in_front = inverse_m >= MIN_DEPTH_M
        np.divide(1, np.maximum(inverse_m, MIN_DEPTH_M), out=inverse_m)
        x = (view.rays[0] * depth_m + tx) * inverse_m
        y = (view.rays[1] * depth_m + ty) * inverse_m
        (fx, skew, cx), (_, fy, cy), _ = view.k
        x, y = fx * x + skew * y + cx, fy * y + cy
        x, y = cv2.split(cv2.remap(view.lens, x, y, cv2.INTER_LINEAR, borderValue=OUTSIDE_PX))
        # Distance to the thermal image's edge, in thermal pixels; the outermost pixels cover half a pixel more.
        inside_px = np.minimum(
            np.minimum(x + 0.5, width_px - 0.5 - x), np.minimum(y + 0.5, height_px - 0.5 - y)
        )
        mask = (inside_px > 0) & in_front & view.found
        baseline_px = view.k[0, 0] * np.linalg.norm(self._calibration.translation_m)
        mask &= ~_hidden(x, y, inverse_m, mask, thermal_size_px, view.cell_px, baseline_px)
        weight = np.clip(inside_px * np.float32(view.rgb_px_per_thermal_px / FEATHER_PX), SMALLEST_WEIGHT, 1)
        weight[~mask] = 0
        pixels = cv2.remap(thermal_pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return Registered(pixels, None, mask, weight, float(mask.mean()))


def _depth_view(
    calibration: Calibration, shift_px: tuple[float, float], thermal_size_px: Size, rgb_size_px: Size
) -> _DepthView:
    rgb = scaled(calibration.rgb, rgb_size_px, "rgb")
    thermal = scaled(calibration.thermal, thermal_size_px, "thermal")
    u, v = pixel_grid(rgb_size_px, shift_px)
    directions, found = rays(rgb, np.stack([u.ravel(), v.ravel()], axis=1))
    turned = calibration.rotation @ np.vstack([directions.T, np.ones(len(directions))])
    k, lens = _lens_table(thermal)
    focal_ratio = np.sqrt(thermal.k[0, 0] * thermal.k[1, 1] / (rgb.k[0, 0] * rgb.k[1, 1]))
    return _DepthView(
        rays=turned.reshape(3, *u.shape).astype(np.float32),
        found=found.reshape(u.shape),
        k=k,
        lens=lens,
        cell_px=max(1, int(np.ceil(CELL_MARGIN * focal_ratio))),
        rgb_px_per_thermal_px=float(1 / focal_ratio),
    )


def _lens_table(thermal: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(k, lens) of `_DepthView`: cells of one thermal pixel at the image centre, over the whole field of view."""
    width_px, height_px = thermal.width_px, thermal.height_px
    border = np.array(
        [(x, y) for x in np.linspace(-1, width_px, 65) for y in (-1, height_px)]
        + [(x, y) for y in np.linspace(-1, height_px, 65) for x in (-1, width_px)]
    )
    directions, found = rays(thermal, border)
    reach = np.tan(np.radians(MAX_ANGLE_DEG))
    if thermal.d.any():
        reach = min(reach, np.tan(radial_table(thermal)[0][-1]))  # past it the lens model says nothing
    if not found.all():  # the lens model ends inside the image
        directions = np.vstack([directions[found], [(-reach, -reach), (reach, reach)]])
    directions = directions.clip(-reach, reach) @ thermal.k[:2, :2].T
    low, high = np.floor(directions.min(axis=0)), np.ceil(directions.max(axis=0))
    if not np.prod(high - low + 1) <= MAX_LENS_CELLS:  # NaN is not
        raise RegistrationError(
            "thermal/camera_info: the lens model ends inside the image, or sees far more than the image holds: "
            "calibrate the thermal camera again, or set registration.mode to extrinsic"
        )
    x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
    cells = np.stack([x.ravel(), y.ravel()], axis=1) @ np.linalg.inv(thermal.k[:2, :2]).T
    pixels, valid = project(thermal, np.column_stack([cells, np.ones(len(cells))]))
    pixels[~valid] = OUTSIDE_PX
    k = thermal.k.copy()
    k[:2, 2] = -low
    return k.astype(np.float32), pixels.reshape(*x.shape, 2).astype(np.float32)


def _hidden(x, y, inverse_m, mask, thermal_size_px, cell_px: int, baseline_px: float) -> np.ndarray:
    """(H, W) bool: another RGB pixel's point is nearer on the same thermal ray (a z-buffer).

    Nearer is measured in parallax: a nearer point matters if it lies on another thermal pixel than the hidden one
    would after exchanging their depths, that is by more than HIDDEN_PX. That makes slanted ground, whose depth
    changes fast from row to row, hide nothing of itself.
    """
    columns = -(-thermal_size_px[0] // cell_px)
    rows = -(-thermal_size_px[1] // cell_px)
    scale = np.float32(1 / cell_px)
    cell = ((y + 0.5) * scale).astype(np.int32) * columns + ((x + 0.5) * scale).astype(np.int32)
    cell[~mask] = 0
    nearest = np.zeros(columns * rows, np.float32)
    np.maximum.at(nearest, cell[mask], inverse_m[mask])
    return (nearest[cell] - inverse_m) * np.float32(baseline_px) > HIDDEN_PX
