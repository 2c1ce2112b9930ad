import numpy as np
import pytest

from fusionproxy_ros.trials.night_figures import CYCLE_S
from fusionproxy_ros.trials.night_road import VISIBLE_CONTRAST, NightRoad, contrast, default_calibration

pytestmark = pytest.mark.slow

CALIBRATION = default_calibration()
EYE_HEIGHT_M = 1.4
TIMES_S = np.arange(0.0, CYCLE_S, 1.0)


@pytest.fixture(scope="module")
def road():
    return NightRoad(CALIBRATION, seed=0)


@pytest.fixture(scope="module")
def truth(road):
    """(t_s, pedestrians) over one cycle."""
    return [(t_s, road.pedestrians(t_s)) for t_s in TIMES_S]


def distort(xy, d):
    """Brown-Conrady ("plumb_bob") as the OpenCV manual writes it; xy is (N, 2) normalised."""
    k1, k2, p1, p2, k3 = d
    x, y = xy.T
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return np.column_stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ]
    )


def to_pixels(points_m, camera):
    """(N, 3) points in the camera's frame -> (N, 2) pixels."""
    xy = distort(points_m[:, :2] / points_m[:, 2:], camera.d)
    return xy * [camera.k[0, 0], camera.k[1, 1]] + camera.k[:2, 2]


def to_points(pixels, depth_m, camera):
    """(N, 2) pixels at one depth -> (N, 3) points in the camera's frame."""
    wanted = (pixels - camera.k[:2, 2]) / [camera.k[0, 0], camera.k[1, 1]]
    xy = wanted.copy()
    for _ in range(100):
        xy += wanted - distort(xy, camera.d)
    return np.column_stack([xy, np.ones(len(xy))]) * depth_m


def to_thermal_pixels(points_m):
    return to_pixels(points_m @ CALIBRATION.rotation.T + CALIBRATION.translation_m, CALIBRATION.thermal)


def mask_points(pedestrian):
    """3-D points of the visible pixels of a pedestrian, (N, 3)."""
    v, u = np.nonzero(pedestrian.mask)
    return to_points(np.column_stack([u, v]).astype(float), pedestrian.depth_m, CALIBRATION.rgb)


def thermal_mask(pedestrian, shape):
    """(h, w) bool of the thermal pixels whose image of the visible pedestrian is."""
    u, v = np.rint(to_thermal_pixels(mask_points(pedestrian))).astype(int).T
    inside = (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0])
    mask = np.zeros(shape, bool)
    mask[v[inside], u[inside]] = True
    return mask


def wholly_seen(pedestrian):
    """Someone half behind a car in RGB may be behind it altogether for the thermal camera, 0.1 m beside."""
    x0, y0, x1, y1 = pedestrian.box_px
    return pedestrian.mask[y0:y1, x0:x1].mean() > 0.35


def test_same_seed_and_time_give_the_same_pixels(road):
    again = NightRoad(CALIBRATION, seed=0)
    again.rgb(1.0)  # what was rendered before must not matter
    for t_s in (3.0, 12.345):
        np.testing.assert_array_equal(road.rgb(t_s), again.rgb(t_s))
        np.testing.assert_array_equal(road.thermal(t_s), again.thermal(t_s))
        np.testing.assert_array_equal(road.depth(t_s), again.depth(t_s))


def test_another_seed_is_another_street(road):
    other = NightRoad(CALIBRATION, seed=1)
    assert (other.rgb(3.0) != road.rgb(3.0)).mean() > 0.5
    assert (other.depth(3.0) != road.depth(3.0)).mean() > 0.01


def test_images_have_the_calibrated_sizes_and_types(road):
    small = NightRoad(default_calibration((320, 240), (400, 300)))
    for scene, rgb_shape, thermal_shape in ((road, (480, 640), (256, 320)), (small, (240, 320), (300, 400))):
        assert scene.rgb(2.0).shape == (*rgb_shape, 3) and scene.rgb(2.0).dtype == np.uint8
        assert scene.depth(2.0).shape == rgb_shape and scene.depth(2.0).dtype == np.float32
        assert scene.thermal(2.0).shape == thermal_shape and scene.thermal(2.0).dtype == np.uint16


def test_time_may_be_negative_or_long_past_the_first_cycle(road):
    for t_s in (-3.7, 1e6 + 0.1):
        assert road.rgb(t_s).any() and road.thermal(t_s).all() and len(road.pedestrians(t_s)) >= 3


def test_pedestrians_are_of_human_height_and_stand_on_the_ground(truth):
    sunk_px = []
    for _, pedestrians in truth:
        for p in pedestrians:
            x0, y0, x1, y1 = p.box_px
            if x0 == 0 or x1 == CALIBRATION.rgb.width_px:
                continue
            centre = (x0 + x1 - 1) / 2
            ends = np.array([[centre, y0 - 0.5], [centre, y1 - 0.5]])
            (_, head_m, _), (_, feet_m, _) = to_points(ends, p.depth_m, CALIBRATION.rgb)
            pixel_m = p.depth_m / CALIBRATION.rgb.k[1, 1]
            assert 1.4 < feet_m - head_m < 2.05
            sunk_px.append((feet_m - EYE_HEIGHT_M) / pixel_m)
    assert len(sunk_px) > 50
    assert np.abs(sunk_px).max() < 1.2
    assert abs(np.mean(sunk_px)) < 0.25  # a half-pixel slip of the pixel grid would show here


def test_a_point_on_a_pedestrian_is_warm_where_it_projects_in_the_thermal_image(road, truth):
    for t_s, pedestrians in truth:
        counts = road.thermal(t_s)
        for p in pedestrians:
            mask = thermal_mask(p, counts.shape)
            if mask.sum() >= 30 and wholly_seen(p):
                assert np.median(counts[mask]) > 29100


def test_thermal_edges_of_a_pedestrian_lie_where_the_geometry_puts_them(road, truth):
    """Shifting the projected silhouette by two thermal pixels in any direction loses warmth."""
    checked = 0
    for t_s, pedestrians in truth:
        counts = road.thermal(t_s).astype(float)
        for p in pedestrians:
            mask = thermal_mask(p, counts.shape)
            if p.depth_m > 10 or mask.sum() < 300:
                continue
            here = counts[mask].mean()
            for shift in ((0, 2), (0, -2), (2, 0), (-2, 0)):
                assert here > counts[np.roll(mask, shift, (0, 1))].mean() + 30
            checked += 1
    assert checked >= 3


def test_depth_in_a_mask_is_the_pedestrians(road, truth):
    for t_s, pedestrians in truth:
        depth = road.depth(t_s)
        for p in pedestrians:
            assert np.all(depth[p.mask] == np.float32(p.depth_m))


def test_masks_lie_in_their_boxes_and_never_overlap(truth):
    for _, pedestrians in truth:
        assert np.sum([p.mask for p in pedestrians], axis=0).max() <= 1
        for p in pedestrians:
            x0, y0, x1, y1 = p.box_px
            assert p.mask[y0:y1, x0:x1].sum() == p.mask.sum() > 0


def test_some_pedestrians_are_partly_hidden_by_nearer_things(road, truth):
    hidden = 0
    for t_s, pedestrians in truth:
        depth = road.depth(t_s)
        for p in pedestrians:
            x0, y0, x1, y1 = p.box_px
            nearer = depth[y0:y1, x0:x1] < np.float32(p.depth_m)
            assert not (nearer & p.mask[y0:y1, x0:x1]).any()
            hidden += (nearer[: (y1 - y0) // 2].mean()) > 0.3  # the upper half, where no ground is nearer
    assert hidden >= 3


def test_rgb_changes_only_where_the_truth_says_that_someone_moves(road):
    """After the car has passed and the fog has gone; what hides behind parked cars must not show."""
    t0_s, t1_s = 19.2, 19.7
    change = np.abs(road.rgb(t0_s).astype(int) - road.rgb(t1_s)).max(axis=2)
    movers = np.any([p.mask for t_s in (t0_s, t1_s) for p in road.pedestrians(t_s)], axis=0)
    near = np.any([np.roll(movers, (i, j), (0, 1)) for i in (-2, 0, 2) for j in (-2, 0, 2)], axis=0)
    assert np.count_nonzero(change > 30) > 200
    assert np.count_nonzero((change > 30) & ~near) <= 20


def test_pedestrians_are_warmer_than_the_road(road, truth):
    tarmac = np.array([[x, EYE_HEIGHT_M, z] for x in (-1.4, 1.4) for z in np.linspace(5, 6, 20)])
    u, v = np.rint(to_thermal_pixels(tarmac)).astype(int).T
    for t_s, pedestrians in truth:
        counts = road.thermal(t_s)
        road_counts = counts[v, u].mean()
        assert 28200 < road_counts < 28800
        for p in pedestrians:
            mask = thermal_mask(p, counts.shape)
            if mask.sum() >= 10 and wholly_seen(p):
                assert counts[mask].mean() > road_counts + 500
                assert counts[mask].max() < 31000


def test_sky_is_cold_and_infinitely_far(road):
    assert np.isinf(road.depth(0.0)[5, 320])
    assert road.thermal(0.0)[5, 160] < 27000


@pytest.mark.parametrize("seed", [1, 2])
def test_most_pedestrians_are_invisible_in_rgb_but_not_in_thermal(seed):
    scene = NightRoad(CALIBRATION, seed)
    invisible, shown_by_thermal = [], []
    for t_s in TIMES_S:
        pedestrians = scene.pedestrians(t_s)
        assert len(pedestrians) >= 3
        counts = scene.thermal(t_s).astype(float)
        low, high = np.percentile(counts, (1, 99.7))
        grey = np.clip((counts - low) / (high - low), 0, 1) * 255
        for p in pedestrians:
            invisible.append(p.rgb_contrast < VISIBLE_CONTRAST)
            shown_by_thermal.append(contrast(grey, thermal_mask(p, grey.shape)) >= VISIBLE_CONTRAST)
    assert 0.6 <= np.mean(invisible) < 1.0
    assert np.mean(np.array(shown_by_thermal)[invisible]) > 0.95


def test_the_street_moves(road):
    for t_s in TIMES_S:
        assert np.count_nonzero(road.depth(t_s) != road.depth(t_s + 0.5)) > 200
        warmer = road.thermal(t_s + 0.5).astype(int) - road.thermal(t_s)
        assert np.count_nonzero(np.abs(warmer) > 500) > 50


def test_glare_blinds(road):
    dark, glare = (np.count_nonzero(road.rgb(t_s).min(axis=2) > 240) for t_s in (19.5, 7.0))
    assert dark < 300 < glare


def test_fog_veils_what_is_far_and_neither_what_is_near_nor_the_thermal_image(road):
    clear_s, foggy_s = 19.5, 16.6  # the car has gone at both
    clear, foggy, depth = road.rgb(clear_s), road.rgb(foggy_s), road.depth(clear_s)
    far, near = (depth > 60) & np.isfinite(depth), depth < 5
    assert foggy[far].std() < 0.8 * clear[far].std()
    assert foggy[near].std() == pytest.approx(clear[near].std(), rel=0.02)
    sky = np.s_[5:40, 100:220]
    assert abs(road.thermal(foggy_s)[sky].mean() - road.thermal(clear_s)[sky].mean()) < 100


def test_sensor_noise_is_new_in_every_frame_and_of_the_stated_size(road):
    still = np.s_[200:, :]  # road and kerb in the lower left, where nobody walks and no streak reaches
    difference = road.thermal(19.50).astype(float)[still] - road.thermal(19.51)[still]
    assert 1.4826 * np.median(np.abs(difference)) / np.sqrt(2) == pytest.approx(5.0, rel=0.3)


def test_contrast_is_the_difference_of_grey_levels_over_255():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    assert contrast(np.where(mask, 151.0, 100.0), mask) == pytest.approx(0.2)
    assert contrast(np.where(mask, 49, 100).astype(np.uint8), mask) == pytest.approx(0.2)
    assert contrast(np.full((60, 80), 77.0), mask) == 0


def test_contrast_looks_no_farther_than_its_ring():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    image = np.where(mask, 60.0, 50.0)
    image[:13], image[:, 57:] = 255, 255
    assert contrast(image, mask) == pytest.approx(10 / 255)


def test_contrast_of_an_empty_or_full_mask_is_zero():
    image = np.arange(12.0).reshape(3, 4)
    assert contrast(image, np.zeros((3, 4), bool)) == 0
    assert contrast(image, np.ones((3, 4), bool)) == 0


def test_contrast_of_a_mask_at_the_border_uses_the_ring_that_is_there():
    mask = np.zeros((30, 30), bool)
    mask[:5, :5] = True
    assert contrast(np.where(mask, 255.0, 0.0), mask) == 1
