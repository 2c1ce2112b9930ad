"""Registration by depth against ray tracing of a street of planes: exact where seen, and it knows what is hidden."""

from dataclasses import replace

import numpy as np
import pytest
from camera_models import RGB_PX, THERMAL_PX, by_hand, camera_matrix, rotation_matrix, sampled_positions

from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.depth import by_depth

WALL_M = 60.0
GROUND_M = 1.4  # below the RGB camera
FEATHERED_PX = 60  # at the RGB frame: where the thermal view may end
BOARDS_M = (  # z, and x0, x1, y0, y1: fronto-parallel rectangles from 2 m to 30 m
    (2.0, -0.9, -0.5, -0.8, 1.4),
    (5.0, 0.6, 1.5, -0.4, 1.4),
    (12.0, -2.0, -0.5, -1.0, 1.4),
    (30.0, 1.0, 9.0, -5.0, 1.4),
)
MODELS = {
    "plumb_bob": np.array([-0.25, 0.07, 0.001, -0.0008, 0.0]),
    "rational_polynomial": np.array([-0.2, 0.05, 0.001, 0.0005, 0.01, 0.02, -0.01, 0.005]),
    "equidistant": np.array([-0.03, 0.006, -0.001, 0.0002]),
}


def rig(model="plumb_bob", thermal_px=THERMAL_PX, focal_share=0.86):
    rgb = Camera(*RGB_PX, camera_matrix(RGB_PX, 0.8, 0.01, -0.01), "plumb_bob", np.array([-0.1, 0.03, 0, 0]))
    thermal = Camera(*thermal_px, camera_matrix(thermal_px, focal_share, -0.01, 0.01), model, MODELS[model])
    return Calibration(rgb, thermal, rotation_matrix(0.01, -0.015, 0.007), np.array([-0.12, 0.02, -0.01]))


def trace(origin_m, directions):
    """z of the first surface along rays (N, 3) from origin (3,), as multiples of the direction (N,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = [(WALL_M - origin_m[2]) / directions[:, 2], (GROUND_M - origin_m[1]) / directions[:, 1]]
        for z, x0, x1, y0, y1 in BOARDS_M:
            reach = (z - origin_m[2]) / directions[:, 2]
            x, y, _ = origin_m[:, None] + reach * directions.T
            hits.append(np.where((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1), reach, np.inf))
    hits = np.stack(hits)
    return np.where(hits > 0, hits, np.inf).min(axis=0)


def street(calibration):
    """Depth image, exact thermal pixels, and which RGB pixels the thermal camera sees; (H, W) each."""
    # Rays of the RGB pixels by Newton-free inversion: iterate the hand model to far below a hundredth of a pixel.
    u, v = np.meshgrid(np.arange(RGB_PX[0], dtype=float), np.arange(RGB_PX[1], dtype=float))
    camera = calibration.rgb
    x, y = (u - camera.k[0, 2]) / camera.k[0, 0], (v - camera.k[1, 2]) / camera.k[1, 1]
    for _ in range(50):
        pu, pv = by_hand(camera, x, y)
        x, y = x + (u - pu) / camera.k[0, 0], y + (v - pv) / camera.k[1, 1]
    directions = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    depth_m = trace(np.zeros(3), directions)
    points_m = depth_m[:, None] * directions
    centre_m = -calibration.rotation.T @ calibration.translation_m
    seen = trace(centre_m, points_m - centre_m) > 1 - 1e-6
    px, py, pz = calibration.rotation @ points_m.T + calibration.translation_m[:, None]
    tx, ty = by_hand(calibration.thermal, px / pz, py / pz)
    return (a.reshape(u.shape) for a in (depth_m.astype(np.float32), tx, ty, seen))


def in_thermal(tx, ty, thermal_px, margin_px=1.0):
    width, height = thermal_px
    return (tx > margin_px) & (tx < width - 1 - margin_px) & (ty > margin_px) & (ty < height - 1 - margin_px)


@pytest.mark.parametrize("thermal_px", [THERMAL_PX, (640, 512)])
@pytest.mark.parametrize("model", MODELS)
def test_pixels_that_both_cameras_see_are_sampled_within_half_a_pixel_from_2_m_to_60_m(model, thermal_px):
    calibration = rig(model, thermal_px)
    depth_m, tx, ty, seen = street(calibration)
    assert depth_m.min() <= 2.0 and depth_m.max() >= 59.9
    x, y, mask = sampled_positions(by_depth(calibration, 20.0), thermal_px, depth_m=depth_m)
    truth = seen & in_thermal(tx, ty, thermal_px)
    error_px = np.hypot(x - tx, y - ty)[truth]
    assert np.mean(error_px <= 0.5) >= 0.99
    assert np.quantile(error_px, 0.99) < 0.1  # what is promised is 0.5
    assert np.mean(mask[truth]) > 0.99  # seen, and said to be seen


@pytest.mark.parametrize("thermal_px", [THERMAL_PX, (640, 512)])
def test_what_a_nearer_surface_hides_from_the_thermal_camera_is_invalid(thermal_px):
    calibration = rig(thermal_px=thermal_px)
    depth_m, tx, ty, seen = street(calibration)
    hidden = ~seen & in_thermal(tx, ty, thermal_px)
    assert hidden.mean() > 0.005
    mask = sampled_positions(by_depth(calibration, 20.0), thermal_px, depth_m=depth_m)[2]
    plane = sampled_positions(registration.extrinsic(calibration, 20.0), thermal_px)[2]
    # The last pixel of a shadow is hidden by less than the cell of the test.
    assert np.mean(~mask[hidden]) > 0.95 and np.mean(~plane[hidden]) < 0.1
    assert np.mean(~mask[seen & in_thermal(tx, ty, thermal_px)]) < 0.01


def test_a_flat_scene_at_the_plane_depth_equals_extrinsic():
    calibration = rig()
    flat = np.full(RGB_PX[::-1], 20.0, np.float32)
    answered = sampled_positions(by_depth(calibration, 20.0), depth_m=flat)
    by_plane = sampled_positions(registration.extrinsic(calibration, 20.0))
    both = answered[2] & by_plane[2]
    assert np.mean(answered[2] != by_plane[2]) < 0.001
    for a, b in zip(answered[:2], by_plane[:2], strict=True):
        assert np.abs(a - b)[both].max() < 0.1


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0])
def test_pixels_without_a_depth_lie_on_the_plane(hole):
    calibration = rig()
    depth_m = np.full(RGB_PX[::-1], hole, np.float32)
    depth_m[:, :160] = 20.0
    holes = sampled_positions(by_depth(calibration, 20.0), depth_m=depth_m)
    full = sampled_positions(by_depth(calibration, 20.0), depth_m=np.full(RGB_PX[::-1], 20.0, np.float32))
    for a, b in zip(holes, full, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_depth_image_it_is_extrinsic():
    calibration = rig()
    for a, b in zip(
        sampled_positions(by_depth(calibration, 20.0)),
        sampled_positions(registration.extrinsic(calibration, 20.0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_depth_image_of_another_size_is_scaled_to_the_rgb_grid():
    calibration = rig()
    depth_m = np.full(RGB_PX[::-1], 30.0, np.float32)
    depth_m[:, 100:200] = 5.0
    full = sampled_positions(by_depth(calibration, 20.0), depth_m=depth_m)
    half = sampled_positions(by_depth(calibration, 20.0), depth_m=depth_m[::2, ::2])
    for a, b in zip(full, half, strict=True):
        np.testing.assert_array_equal(a, b)


def test_points_behind_the_thermal_camera_are_invalid():
    backwards = replace(rig(), rotation=rotation_matrix(0, np.pi, 0))
    registered = by_depth(backwards, 5.0).register(
        np.ones(THERMAL_PX[::-1], np.uint8), RGB_PX, np.full(RGB_PX[::-1], 5.0, np.float32)
    )
    assert registered.valid_fraction == 0


def test_weight_is_positive_where_the_mask_is_and_keeps_people_beside_their_shadows():
    calibration = rig()
    depth_m, _, _, _ = street(calibration)
    registered = by_depth(calibration, 20.0).register(np.zeros(THERMAL_PX[::-1], np.uint8), RGB_PX, depth_m)
    np.testing.assert_array_equal(registered.weight > 0, registered.mask)
    assert registered.weight.dtype == np.float32 and registered.weight.max() == 1
    board = registered.mask & (depth_m == 5.0)
    board[:, :FEATHERED_PX] = board[:, -FEATHERED_PX:] = False
    board[:FEATHERED_PX] = board[-FEATHERED_PX:] = False
    assert (registered.weight[board] == 1).mean() > 0.95


@pytest.mark.parametrize("mode", [by_depth, registration.extrinsic])
def test_a_shift_moves_the_sampling_by_that_many_rgb_pixels(mode):
    calibration = rig()
    depth_m = np.full(RGB_PX[::-1], 20.0, np.float32)
    x, y, mask = sampled_positions(mode(calibration, 20.0), depth_m=depth_m)
    moved_x, moved_y, moved_mask = sampled_positions(
        mode(calibration, 20.0).shifted((7.0, -4.0)), depth_m=depth_m
    )
    both = mask[:-4, 7:] & moved_mask[4:, :-7]
    assert both.mean() > 0.5
    assert np.abs(moved_x[4:, :-7] - x[:-4, 7:])[both].max() < 0.1
    assert np.abs(moved_y[4:, :-7] - y[:-4, 7:])[both].max() < 0.1
