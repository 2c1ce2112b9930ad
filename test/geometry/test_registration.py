"""Registration against geometry worked out by hand, without its helpers or OpenCV's camera models."""

import gc
import tracemalloc
import weakref
from dataclasses import replace

import cv2
import numpy as np
import pytest
from camera_models import (
    RGB_PX,
    THERMAL_PX,
    calibrations,
    camera_matrix,
    expected_positions,
    interpolate,
    rotation_matrix,
    sampled_positions,
    simple_calibration,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionproxy_ros.core.errors import FusionError, RegistrationError
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.trials.night_road import default_calibration

# --- extrinsic


@settings(max_examples=60, deadline=None)
@given(calibrations(), st.floats(1.0, 60.0))
def test_extrinsic_samples_where_the_geometry_says(calibration, depth_m):
    sampled_x, sampled_y, mask = sampled_positions(registration.extrinsic(calibration, depth_m))
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-0.6, 0.6, 25), np.linspace(-0.45, 0.45, 19)))
    u, v, tx, ty, radius = expected_positions(calibration, depth_m, x, y)
    # Off the borders, where the ramps cannot be interpolated, and where every drawn lens is monotonic.
    inside = (u > 1) & (u < RGB_PX[0] - 2) & (v > 1) & (v < RGB_PX[1] - 2)
    seen = inside & (radius < 0.8) & (tx > 2) & (tx < THERMAL_PX[0] - 3) & (ty > 2) & (ty < THERMAL_PX[1] - 3)
    u, v, tx, ty, seen = u[inside], v[inside], tx[inside], ty[inside], seen[inside]
    outside = (tx < -2) | (tx > THERMAL_PX[0] + 1) | (ty < -2) | (ty > THERMAL_PX[1] + 1)
    covered = interpolate(mask.astype(float), u, v)
    assert (covered[seen] == 1).all()
    assert (covered[outside] == 0).all()
    assert np.abs(interpolate(sampled_x, u, v) - tx)[seen].max(initial=0) < 0.1
    assert np.abs(interpolate(sampled_y, u, v) - ty)[seen].max(initial=0) < 0.1


@pytest.mark.parametrize("count", [12, 14])
@pytest.mark.parametrize("side", ["rgb", "thermal"])
def test_thin_prism_and_tilt_agree_with_opencv(side, count):
    """Their formulas have no shorter source than OpenCV, which is the reference here."""
    d = np.array(
        [-0.2, 0.05, 1e-3, -2e-3, 0.01, 0.02, 0.01, 0, 0.01, -0.004, -0.008, 0.003, 0.03, -0.02][:count]
    )
    calibration = with_camera(side, distortion_model="rational_polynomial", d=d)
    sampled_x, sampled_y, mask = sampled_positions(registration.extrinsic(calibration, 5.0))
    rays = np.random.default_rng(0).uniform(-0.4, 0.4, (300, 2))
    at_plane = 5.0 * np.column_stack([rays, np.ones(300)])
    (u, v), (tx, ty) = (
        cv2.projectPoints(at_plane, np.zeros(3), t, camera.k, camera.d if camera.d.any() else None)[0]
        .reshape(-1, 2)
        .T
        for camera, t in ((calibration.rgb, np.zeros(3)), (calibration.thermal, calibration.translation_m))
    )
    assert (interpolate(mask.astype(float), u, v) == 1).all()
    assert np.abs(interpolate(sampled_x, u, v) - tx).max() < 0.1
    assert np.abs(interpolate(sampled_y, u, v) - ty).max() < 0.1


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", [-0.25, 0.07, 0.001, -0.0008, 0.02]),
        ("rational_polynomial", [-0.2, 0.05, 0.001, 0.0005, 0.01, 0.02, -0.01, 0.005]),
        ("equidistant", [-0.03, 0.006, -0.001, 0.0002]),
    ],
)
def test_extrinsic_agrees_with_opencv_undistort_and_remap(model, d):
    depth_m = 8.0
    calibration = replace(
        simple_calibration(distortion_model=model, d=np.array(d)), rotation=rotation_matrix(0.02, -0.03, 0.01)
    )
    sampled_x, sampled_y, mask = sampled_positions(registration.extrinsic(calibration, depth_m))
    # The plane z = depth_m induces a homography between the cameras' undistorted images; OpenCV takes any
    # regular matrix for its rectifying "rotation".
    plane = calibration.rotation + np.outer(calibration.translation_m, [0, 0, 1 / depth_m])
    rectify = np.linalg.inv(plane @ np.linalg.inv(calibration.rgb.k))
    init = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else cv2.initUndistortRectifyMap
    x, y = init(calibration.thermal.k, np.array(d), rectify, np.eye(3), RGB_PX, cv2.CV_32FC1)
    assert mask.mean() > 0.8
    assert np.abs(sampled_x - x)[mask].max() < 0.1 and np.abs(sampled_y - y)[mask].max() < 0.1


def test_rectified_rgb_skips_the_rgb_distortion_only():
    distorted = replace(simple_calibration().rgb, d=np.array([-0.3, 0.1, 0.0, 0.0, 0.0]))
    calibration = replace(simple_calibration(), rgb=distorted)
    rectified = sampled_positions(registration.extrinsic(calibration, 5.0, rgb_is_rectified=True))
    plain = sampled_positions(registration.extrinsic(simple_calibration(), 5.0))
    for a, b in zip(rectified, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_points_past_the_fold_of_the_lens_model_do_not_return_into_the_image():
    barrel = np.array([-0.4, 0.0, 0.0, 0.0])
    calibration = simple_calibration(d=barrel)
    calibration = replace(calibration, rgb=replace(calibration.rgb, k=camera_matrix(RGB_PX, 0.25, 0, 0)))
    u, v = np.meshgrid(np.arange(RGB_PX[0]), np.arange(RGB_PX[1]))
    k = calibration.rgb.k
    x, y = ((u - k[0, 2]) / k[0, 0]).ravel(), ((v - k[1, 2]) / k[1, 1]).ravel()
    _, _, tx, ty, _ = expected_positions(calibration, 1000.0, x, y)
    naively_inside = (tx >= 0) & (tx <= THERMAL_PX[0] - 1) & (ty >= 0) & (ty <= THERMAL_PX[1] - 1)
    folded = np.hypot(x, y) > 1.01 * np.sqrt(1 / (3 * 0.4))  # d(r + k1 r^3)/dr = 0, and the baseline's margin
    mask = sampled_positions(registration.extrinsic(calibration, 1000.0))[2].ravel()
    assert (naively_inside & folded).sum() > 1000
    assert not mask[folded].any()
    assert mask[naively_inside & (np.hypot(x, y) < 0.8)].all()


def test_rgb_pixels_beyond_the_rgb_lens_model_are_invalid():
    # The distorted radius of this lens never exceeds 0.609; the corners of the image lie at 0.8.
    calibration = simple_calibration(k=camera_matrix(THERMAL_PX, 0.2, 0, 0))
    calibration = replace(calibration, rgb=replace(calibration.rgb, d=np.array([-0.4, 0.0, 0.0, 0.0])))
    k = calibration.rgb.k
    u, v = np.meshgrid(np.arange(RGB_PX[0]), np.arange(RGB_PX[1]))
    radius = np.hypot((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
    mask = sampled_positions(registration.extrinsic(calibration, 5.0))[2]
    assert mask[radius < 0.6].all() and not mask[radius > 0.615].any()


@pytest.mark.parametrize("d", [0.0, 0.01])
@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_points_behind_the_thermal_camera_are_invalid(model, d):
    calibration = simple_calibration(d=np.full(4, d), distortion_model=model)
    backwards = replace(calibration, rotation=rotation_matrix(0, np.pi, 0), translation_m=np.zeros(3))
    registered = registration.extrinsic(backwards, 5.0).register(np.ones((128, 160), np.uint8), RGB_PX)
    assert registered.valid_fraction == 0 and not registered.mask.any() and not registered.weight.any()


def test_strong_fisheye_leaves_no_hole_in_the_picture():
    d = np.array([-0.02, 0.01, -0.005, 0.001])
    rgb = Camera(*RGB_PX, camera_matrix(RGB_PX, 0.42, 0, 0), "equidistant", d)  # 140 degrees wide
    thermal = Camera(*THERMAL_PX, camera_matrix(THERMAL_PX, 0.35, 0, 0), "equidistant", d)
    calibration = Calibration(rgb, thermal, np.eye(3), np.zeros(3))
    registered = registration.extrinsic(calibration, 5.0).register(np.ones((128, 160), np.uint8), RGB_PX)
    assert registered.valid_fraction == 1 and registered.mask is None and registered.weight is None


def test_binned_images_sample_the_same_places():
    calibration = simple_calibration(d=np.array([-0.2, 0.05, 0.001, 0.0]))
    full_x, full_y, full_mask = sampled_positions(registration.extrinsic(calibration, 5.0))
    bin_x, bin_y, bin_mask = sampled_positions(
        registration.extrinsic(calibration, 5.0), thermal_px=(80, 64), rgb_px=(160, 120)
    )
    # A binned pixel's centre lies amid its four, and half a thermal pixel is half as many counts.
    for full, binned in ((full_x, bin_x), (full_y, bin_y)):
        centres = full.reshape(120, 2, 160, 2).mean(axis=(1, 3))
        both = bin_mask & full_mask.reshape(120, 2, 160, 2).all(axis=(1, 3))
        both[:4], both[-4:], both[:, :4], both[:, -4:] = False, False, False, False
        assert np.abs((centres + 0.5) / 2 - 0.5 - binned)[both].max() < 0.05


def test_parallax_error_matches_the_design_figure():
    k = np.array([[502.0, 0, 320], [0, 502, 240], [0, 0, 1]])
    camera = Camera(640, 480, k)
    calibration = Calibration(camera, camera, np.eye(3), np.array([0.10, 0.0, 0.0]))
    assert registration.parallax_error_px(calibration, 20.0, 3.0) == pytest.approx(
        502 * 0.1 * (1 / 3 - 1 / 20)
    )
    assert round(registration.parallax_error_px(calibration, 20.0, 3.0)) == 14
    assert registration.parallax_error_px(calibration, 20.0, 20.0) == pytest.approx(0)
    forward = replace(
        calibration, translation_m=np.array([0.1, 0.0, -4.0])
    )  # the thermal camera is 4 m ahead
    assert registration.parallax_error_px(forward, 20.0, 3.0) == np.inf


@settings(max_examples=50, deadline=None)
@given(calibrations(), st.floats(1.0, 60.0), st.floats(1.0, 60.0))
def test_parallax_error_is_how_far_the_picture_moves(calibration, plane_m, object_m):
    """The RGB pixel whose plane point has the object's thermal pixel lies that far from the object's own."""
    bare = replace(
        calibration,
        rgb=replace(calibration.rgb, d=np.zeros(0)),
        thermal=replace(calibration.thermal, d=np.zeros(0)),
    )
    rotation, t = bare.rotation, bare.translation_m
    seen = rotation @ np.array([0, 0, object_m]) + t
    # Thermal pixels of the plane z = plane_m are a homography of RGB rays: invert it.
    to_thermal = rotation + np.outer(t, [0, 0, 1]) / plane_m
    ray = np.linalg.solve(to_thermal, seen)
    expected = np.hypot(*(bare.rgb.k[:2, :2] @ (ray[:2] / ray[2])))
    assert registration.parallax_error_px(calibration, plane_m, object_m) == pytest.approx(expected, abs=1e-6)


# --- homography and identity


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, -3.0]))
def test_homography_maps_thermal_to_rgb_whatever_its_scale(seed, scale):
    rng = np.random.default_rng(seed)
    h = np.diag([2.0, 1.9, 1.0]) @ rotation_matrix(0, 0, rng.uniform(-0.2, 0.2))
    h[:2, 2] = rng.uniform(-40, 40, 2)
    h[2, :2] = rng.uniform(-8e-4, 8e-4, 2)
    sampled_x, sampled_y, mask = sampled_positions(registration.homography(scale * h))
    tx, ty = rng.uniform(2, THERMAL_PX[0] - 3, 300), rng.uniform(2, THERMAL_PX[1] - 3, 300)
    u, v, w = h @ np.stack([tx, ty, np.ones(300)])
    u, v = u / w, v / w
    inside = (u > 0) & (u < RGB_PX[0] - 1) & (v > 0) & (v < RGB_PX[1] - 1)
    u, v, tx, ty = u[inside], v[inside], tx[inside], ty[inside]
    assert (interpolate(mask.astype(float), u, v) == 1).all()
    assert np.abs(interpolate(sampled_x, u, v) - tx).max(initial=0) < 0.1
    assert np.abs(interpolate(sampled_y, u, v) - ty).max(initial=0) < 0.1


@pytest.mark.parametrize("scale", [1.0, -2.0])
def test_what_lies_past_the_horizon_of_a_homography_is_invalid(scale):
    # rgb x = x / (1 - x / 100) + 300: the thermal columns from 100 on would appear, mirrored, left of x = 31.
    h = np.array([[1.0, 0, 300], [0, 1, 0], [0, 0, 1]]) @ np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    thermal = np.full((128, 160), 7, np.uint8)
    registered = registration.homography(scale * h).register(thermal, (400, 120))
    assert not registered.mask[:, :300].any() and registered.mask[:60, 300:].all()
    assert (registered.pixels == 7).all()


def test_identity_homography_of_equal_size_is_untouched():
    thermal = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert registration.homography(np.eye(3)).register(thermal, (4, 3)).pixels is thermal
    assert registration.homography(np.eye(3)).register(thermal, (8, 6)).valid_fraction == 0.25


def test_identity_of_equal_size_is_untouched_without_a_copy():
    thermal = np.arange(12, dtype=np.uint16).reshape(3, 4)
    registered = registration.identity().register(thermal, (4, 3))
    assert registered.pixels is thermal
    assert (registered.mask, registered.weight, registered.valid_fraction) == (None, None, 1.0)


@settings(max_examples=50, deadline=None)
@given(*(st.integers(2, 90) for _ in range(4)), st.integers(0, 2**32 - 1))
def test_identity_scaling_is_symmetric_and_covers_everything(width, height, rgb_width, rgb_height, seed):
    thermal = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    reg = registration.identity()
    registered = reg.register(thermal, (rgb_width, rgb_height))
    mirrored = reg.register(np.ascontiguousarray(thermal[::-1, ::-1]), (rgb_width, rgb_height))
    assert registered.mask is None and registered.valid_fraction == 1.0
    assert registered.pixels.shape == (rgb_height, rgb_width)
    # Samples lie on steps of 1/32 px, so a mirrored one may be rounded to the other side.
    assert np.abs(mirrored.pixels[::-1, ::-1] - registered.pixels).max() <= 2 / 32 + 1e-6


def test_identity_scaling_keeps_pixel_areas_aligned():
    sampled_x, sampled_y, _ = sampled_positions(registration.identity())
    assert sampled_x[0, 100] == pytest.approx((100 + 0.5) * 160 / 320 - 0.5, abs=1 / 64)
    assert sampled_y[100, 0] == pytest.approx((100 + 0.5) * 128 / 240 - 0.5, abs=1 / 64)


# --- resampling


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integer_counts_survive_resampling_to_one_count_of_float(dtype, top):
    thermal = np.random.default_rng(1).integers(0, top, (128, 160), endpoint=True).astype(dtype)
    reg = registration.extrinsic(simple_calibration(d=np.array([-0.2, 0.05, 0.001, 0.0])), 5.0)
    counts = reg.register(thermal, RGB_PX).pixels
    exact = reg.register(thermal.astype(np.float32), RGB_PX).pixels
    assert counts.dtype == dtype and exact.dtype == np.float32
    assert np.abs(counts - exact.astype(np.float64)).max() <= 1


def test_uncovered_pixels_repeat_the_edge():
    thermal = np.full((128, 160), 30000, np.uint16)
    registered = registration.homography(np.eye(3)).register(thermal, RGB_PX)
    assert (registered.pixels == 30000).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-300, 300), st.floats(-200, 200), st.floats(0.2, 4.0))
def test_mask_weight_and_valid_fraction_agree(dx, dy, zoom):
    h = np.array([[zoom, 0, dx], [0, zoom, dy], [0, 0, 1]])
    registered = registration.homography(h).register(np.zeros((128, 160), np.uint8), RGB_PX)
    if registered.mask is None:
        assert registered.weight is None and registered.valid_fraction == 1.0
        return
    mask, weight = registered.mask, registered.weight
    assert mask.dtype == bool and weight.dtype == np.float32 and mask.shape == weight.shape == RGB_PX[::-1]
    assert registered.valid_fraction == pytest.approx(mask.mean())
    np.testing.assert_array_equal(weight > 0, mask)
    assert weight.max(initial=0) <= 1
    # Feathered: no step between neighbours exceeds that of the ramp.
    step = 1 / registration.FEATHER_PX + 1e-6
    assert np.abs(np.diff(weight, axis=0)).max() <= step and np.abs(np.diff(weight, axis=1)).max() <= step


def test_weight_reaches_one_inside_and_is_not_feathered_at_the_rgb_frame():
    weight = (
        registration.homography(np.diag([1.0, 1.0, 1.0]))
        .register(np.zeros((128, 160), np.uint8), RGB_PX)
        .weight
    )
    inside = 159 - registration.FEATHER_PX
    assert weight[0, 0] == 1 and weight[60, inside] == 1 and 0 < weight[60, 157] < 1 and weight[60, 161] == 0


def test_the_weight_is_that_of_a_whole_squared_distance_so_every_process_has_the_same_bits():
    turned = np.array([[0.9, 0.1, 3.0], [-0.1, 0.9, 25.0], [0, 0, 1]])
    weight = registration.homography(turned).register(np.zeros((240, 320), np.uint8), (320, 240)).weight
    squared = np.rint((weight * registration.FEATHER_PX) ** 2)
    exact = np.sqrt(squared, dtype=np.float32) / np.float32(registration.FEATHER_PX)
    feathered = (weight > 0) & (weight < 1)
    assert feathered.sum() > 1000
    np.testing.assert_array_equal(weight[feathered], exact[feathered])


def test_nan_stays_local():
    thermal = np.full((128, 160), 300.0, np.float32)
    thermal[64, 80] = np.nan
    bad = np.isnan(registration.identity().register(thermal, RGB_PX).pixels)
    assert 1 <= bad.sum() <= 25


# --- cache


def test_grid_is_computed_once_per_size_and_the_cache_is_bounded():
    reg = registration.identity()
    for _ in range(3):
        reg.register(np.zeros((20, 30), np.uint8), (60, 40))
    assert (reg.grid.cache_info().misses, reg.grid.cache_info().hits) == (1, 2)
    assert reg.grid((30, 20), (60, 40)) is reg.grid((30, 20), (60, 40))
    for width in range(2, 40):
        reg.register(np.zeros((20, width), np.uint8), (60, 40))
    assert reg.grid.cache_info().currsize == registration.MAX_GRIDS


@pytest.mark.parametrize(
    "register",
    [
        registration.identity(),
        registration.extrinsic(default_calibration((640, 480), (320, 240)), 20.0).shifted((3.5, -2.25)),
        registration.homography(np.array([[1.1, 0.02, 4], [-0.01, 0.9, -8], [1e-4, 2e-5, 1]])),
    ],
    ids=["identity", "extrinsic", "homography"],
)
def test_a_grid_is_the_same_by_bands_of_rows_as_in_one_piece(register, monkeypatch):
    grids = []
    for band_px in (registration.BAND_PX, 1024):
        monkeypatch.setattr(registration, "BAND_PX", band_px)
        grids.append(register.shifted(register.shift_px).grid((320, 240), (640, 480)))
    for name in ("map_xy", "map_fraction", "mask", "weight", "valid_fraction"):
        by_bands, whole = (getattr(grid, name) for grid in grids)
        np.testing.assert_array_equal(by_bands, whole)


def test_a_grid_is_built_with_less_in_hand_than_it_keeps():
    register = registration.extrinsic(default_calibration((640, 480), (320, 240)), 20.0)
    registration.warm_up()
    tracemalloc.start()
    grid = register.grid((320, 240), (640, 480))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grid.map_xy.nbytes < kept < 4e6 and peak < 2 * kept


def test_cached_arrays_cannot_be_changed_by_a_user():
    registered = registration.homography(np.eye(3)).register(np.zeros((20, 30), np.uint8), (60, 40))
    with pytest.raises(ValueError):
        registered.weight[:] = 0
    with pytest.raises(ValueError):
        registered.mask[:] = False


# --- errors name cause and cure


def with_camera(side, **changes):
    calibration = simple_calibration()
    return replace(calibration, **{side: replace(getattr(calibration, side), **changes)})


def broken_k(index, value):
    k = camera_matrix(THERMAL_PX, 0.8, 0, 0)
    k[index] = value
    return k


@pytest.mark.parametrize(
    ("calibration", "cause", "cure"),
    [
        (
            with_camera("thermal", k=np.zeros((3, 3))),
            r"thermal/camera_info has K\[0\]==0",
            "registration.mode",
        ),
        (with_camera("rgb", k=np.zeros((3, 3))), r"rgb/camera_info has K\[0\]==0", "publish a calibrated"),
        (
            with_camera("rgb", k=broken_k((1, 1), 0)),
            "rgb/camera_info has K=.*no pinhole",
            "positive fx and fy",
        ),
        (with_camera("rgb", k=broken_k((2, 2), 0)), "rgb/camera_info has K=.*no pinhole", "row by row"),
        (with_camera("rgb", k=broken_k((0, 2), np.nan)), "rgb/camera_info K holds NaN", "calibrate again"),
        (with_camera("rgb", k=np.eye(4)), r"rgb/camera_info K has shape \(4, 4\)", r"give \(3, 3\)"),
        (with_camera("rgb", width_px=0), "rgb/camera_info is for an image of 0x240", "publish the width"),
        (
            with_camera("thermal", d=np.array([np.inf] * 4)),
            "thermal/camera_info D holds NaN",
            "calibrate again",
        ),
        (
            with_camera("thermal", distortion_model="fisheye", d=np.ones(4)),
            'thermal/camera_info has distortion_model "fisheye"',
            "plumb_bob, rational_polynomial, equidistant",
        ),
        (with_camera("thermal", d=np.ones(7)), "7 distortion coefficients", "takes 4 or 5: correct D"),
        (
            replace(simple_calibration(), rotation=1.01 * np.eye(3)),
            "not orthonormal.* by 0.0201",
            "nine numbers",
        ),
        (replace(simple_calibration(), rotation=np.diag([1.0, 1, -1])), "reflection", "optical frames"),
        (replace(simple_calibration(), rotation=np.full((3, 3), np.nan)), "rotation holds NaN", "correct"),
        (replace(simple_calibration(), translation_m=np.zeros(2)), "translation_m has shape", "give"),
    ],
)
def test_unusable_calibration_is_refused(calibration, cause, cure):
    for use in (registration.extrinsic, lambda c, z: registration.parallax_error_px(c, z, 3.0)):
        with pytest.raises(RegistrationError, match=f"{cause}.*{cure}") as error:
            use(calibration, 20.0)
        assert isinstance(error.value, FusionError)


def test_nearly_orthonormal_rotation_is_accepted():
    registration.extrinsic(
        replace(simple_calibration(), rotation=np.round(rotation_matrix(0.1, 0.2, 0.3), 4)), 5.0
    )


@pytest.mark.parametrize("depth_m", [0.0, -1.0, np.nan, np.inf])
def test_impossible_depth_is_refused(depth_m):
    with pytest.raises(RegistrationError, match=r"plane_depth_m is .*: set a positive distance in metres"):
        registration.extrinsic(simple_calibration(), depth_m)
    with pytest.raises(RegistrationError, match=r"object_depth_m is .*: set a positive distance in metres"):
        registration.parallax_error_px(simple_calibration(), 20.0, depth_m)


@pytest.mark.parametrize(
    ("thermal_px", "rgb_px", "cause"),
    [
        ((160, 120), RGB_PX, "thermal/camera_info is for 160x128 px but the thermal image is 160x120"),
        (THERMAL_PX, (640, 360), "rgb/camera_info is for 320x240 px but the rgb image is 640x360"),
        (THERMAL_PX, (320, 241), "rgb/camera_info is for 320x240 px but the rgb image is 320x241"),
    ],
)
def test_image_of_another_shape_than_the_calibration_is_refused(thermal_px, rgb_px, cause):
    reg = registration.extrinsic(simple_calibration(), 5.0)
    with pytest.raises(RegistrationError, match=f"{cause}.*: publish the CameraInfo"):
        reg.register(np.zeros(thermal_px[::-1], np.uint8), rgb_px)
    reg.register(np.zeros(THERMAL_PX[::-1], np.uint8), RGB_PX)  # and it goes on afterwards


@pytest.mark.parametrize(
    ("h", "cause"),
    [
        (np.zeros((3, 3)), "singular.*: estimate it again"),
        (np.array([[1.0, 2, 300], [2, 4, 600], [0, 0, 1]]), "singular.*: estimate it again"),
        (np.full((3, 3), np.nan), "NaN or infinity: calibrate again"),
        (np.eye(2), r"homography has shape \(2, 2\): give \(3, 3\)"),
    ],
)
def test_unusable_homography_is_refused(h, cause):
    with pytest.raises(RegistrationError, match=cause):
        registration.homography(h)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int32), np.zeros((0, 4), np.uint8)]
)
def test_image_that_is_not_thermal_is_refused(pixels):
    with pytest.raises(RegistrationError, match=r"thermal image is .*: publish one channel as mono8"):
        registration.identity().register(pixels, (4, 4))


@pytest.mark.parametrize("make", [registration.extrinsic, by_depth])
def test_what_a_replaced_registration_remembered_is_freed_at_once(make):
    """Not when Python next looks for cycles: in a process that holds torch, that is hardly ever."""
    replaced = make(default_calibration((64, 48), (32, 24)), 20.0)
    replaced.prepare((32, 24), (64, 48))
    gone = weakref.ref(replaced)
    gc.disable()
    try:
        del replaced
        assert gone() is None
    finally:
        gc.enable()
