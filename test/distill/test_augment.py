"""Pictures made worse on purpose, by how much and where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionproxy_ros.distill import augment
from fusionproxy_ros.distill.augment import bad_conditions, random_crop, two_views
from fusionproxy_ros.distill.data import Example, PairFile

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(16, 80), st.integers(16, 80))


def picture(size, seed=0):
    """White noise over the whole range."""
    return np.random.default_rng(seed).random(size, np.float32)


def grey_example(image):
    """An example of one grey image as both luma and thermal."""
    return Example(PairFile("s", "1", None, None), np.dstack([image] * 3), image)


def assert_image(image, size):
    assert image.shape == size and image.dtype == np.float32
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


# two views


@pytest.fixture
def stamped(monkeypatch):
    """Spoiling paints what is spoilt in a level no picture of these tests has; the mask is the fixture's value."""
    mask = np.zeros((40, 60))
    mask[:, 20:45] = 1
    monkeypatch.setattr(augment, "_blobs", lambda rng, shape: mask)
    monkeypatch.setattr(augment, "_spoilt", lambda image, rng: np.full_like(image, -1))
    return mask.astype(bool)


@pytest.mark.parametrize("seed", range(12))
def test_what_one_view_has_lost_the_other_shows(stamped, seed):
    levels = np.linspace(0.1, 0.9, 6, dtype=np.float32)
    rng = np.random.default_rng(seed)
    image = rng.choice(levels, stamped.shape)
    first, second = two_views(image, rng)
    assert (first[~stamped] == image[~stamped]).all() and (first[stamped] == 0).all()
    # The second is the picture in another tone: each level becomes one other level, in order or in reverse.
    assert (second[~stamped] == 0).all()
    tones = [np.unique(second[stamped & (image == level)]) for level in levels]
    assert all(np.ptp(tone) < 1e-6 for tone in tones)
    steps = np.diff([tone[0] for tone in tones])
    assert (steps > 0).all() or (steps < 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES)
def test_views_are_pictures_of_the_same_size_and_of_the_generator_alone(seed, size):
    image = picture(size, seed)
    pair = two_views(image, np.random.default_rng(seed))
    for view in pair:
        assert_image(view, size)
    again = two_views(image, np.random.default_rng(seed))
    assert all((one == other).all() for one, other in zip(pair, again, strict=True))


@pytest.mark.parametrize("level", (0.0, 1.0))
def test_a_black_and_a_white_picture_have_views_too(level):
    for seed in range(20):
        for view in two_views(np.full((32, 48), level, np.float32), np.random.default_rng(seed)):
            assert_image(view, (32, 48))


def test_about_half_of_a_picture_is_spoilt():
    image = picture((64, 64))
    intact = [(two_views(image, np.random.default_rng(seed))[0] == image).mean() for seed in range(100)]
    assert 0.25 < np.mean(intact) < 0.65
    assert min(intact) < 0.4 < max(intact), "masks differ"


# crops


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.integers(8, 64), st.floats(1, 3))
def test_crops_of_both_images_are_one_window(seed, size, crop_px, largest):
    image = (255 * picture(size, seed)).astype(np.uint8)
    luma, thermal = random_crop(grey_example(image), crop_px, largest, np.random.default_rng(seed))
    assert_image(luma, (crop_px, crop_px))
    assert (luma == thermal).all()


def test_a_crop_at_its_own_size_is_a_window_of_the_picture_or_its_mirror():
    image = (255 * picture((20, 30))).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(image, (12, 12))
    mirrored = 0
    for seed in range(20):
        crop, _ = random_crop(grey_example(image), 12, 1.0, np.random.default_rng(seed))
        levels = np.rint(crop * 255)
        as_is, flipped = ((windows == one).all((2, 3)).any() for one in (levels, levels[:, ::-1]))
        assert as_is != flipped
        mirrored += flipped
    assert 2 < mirrored < 18


# conditions


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES)
def test_bad_conditions_keep_size_and_range_and_come_from_the_generator_alone(seed, size):
    sources = picture(size, seed), picture(size, seed + 1)
    before = [source.copy() for source in sources]
    pair = bad_conditions(*sources, np.random.default_rng(seed))
    for image in pair:
        assert_image(image, size)
    again = bad_conditions(*sources, np.random.default_rng(seed))
    assert all((one == other).all() for one, other in zip(pair, again, strict=True))
    assert all((one == other).all() for one, other in zip(sources, before, strict=True))


def test_bad_conditions_are_of_many_kinds():
    """Of mid-grey luma: untouched, darker (night), brighter (fog, glare); thermal: another gain, sometimes moved."""
    luma = np.full((64, 64), 0.3, np.float32)
    thermal = np.zeros((64, 64), np.float32)
    thermal[30:34, 30:34] = 1
    kinds, still, contrasts = set(), 0, []
    for seed in range(120):
        seen, warm = bad_conditions(luma, thermal, np.random.default_rng(seed))
        change = seen - luma
        assert (change <= 1e-6).all() or (change >= -1e-6).all()
        kinds.add(int(np.sign(change[np.abs(change).argmax() // 64, np.abs(change).argmax() % 64])))
        still += (warm.argmax() // 64, warm.argmax() % 64) == (30, 30)
        contrasts.append(np.ptp(warm))
    assert kinds == {-1, 0, 1}
    assert 40 < still < 115
    assert min(contrasts) < 0.8 < max(contrasts) <= 1
