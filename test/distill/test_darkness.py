"""What is shown in the dark."""

import cv2
import numpy as np

from fusionproxy_ros.distill.likelihood import at_night

SIZE = 240, 320
PERSON = np.s_[100:140, 150:165]


def scene(light):
    """Luma with texture at a level, thermal with a warm person and a cool wall, and a fused picture; [0, 1]."""
    rng = np.random.default_rng(0)
    luma = (light + cv2.resize(rng.uniform(-0.03, 0.03, (60, 80)), SIZE[::-1])).astype(np.float32)
    thermal = np.full(SIZE, 0.3, np.float32)
    thermal[:, :60] = 0.27
    thermal[PERSON] = 0.8
    return luma, thermal, rng.uniform(0, 1, SIZE).astype(np.float32)


def test_what_is_lit_stays_as_it_was_fused():
    luma, thermal, fused = scene(0.5)
    result, warm = at_night(luma, thermal, fused)
    np.testing.assert_allclose(result, fused, atol=1e-6)
    assert not warm.any()


def test_in_the_dark_the_background_is_rgb_s_and_people_are_thermal_s():
    luma, thermal, fused = scene(0.05)
    result, warm = at_night(luma, thermal, fused)
    cold = thermal < 0.5
    np.testing.assert_allclose(result[cold], luma[cold], atol=1e-6)
    assert np.abs(result - thermal)[PERSON].max() < 0.02, (
        "with half of RGB's detail on top, which is faint here"
    )
    assert np.corrcoef((result - thermal)[PERSON].ravel(), luma[PERSON].ravel())[0, 1] > 0.9
    assert warm[PERSON].min() > 0.99 and not warm[cold].any()


def test_between_light_and_dark_it_is_between():
    luma, thermal, fused = (np.full(SIZE, value, np.float32) for value in (60 / 255, 0.3, 0.9))
    np.testing.assert_allclose(at_night(luma, thermal, fused)[0], (fused + luma) / 2, atol=1e-4)


def test_a_wide_warm_surface_is_no_person():
    luma, thermal, fused = scene(0.05)
    thermal[:, :160] += 0.2  # a wall in the sun's last warmth, seen beside a cold field
    far = np.s_[:, :40]
    np.testing.assert_allclose(at_night(luma, thermal, fused)[0][far], luma[far], atol=0.01)
