"""Pair in, picture out: thermal shows, colour stays, and without thermal nothing changes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion import cpu as native
from fusionproxy_ros.fusion import devices
from fusionproxy_ros.fusion.devices import DeviceError
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import homography, identity

SECOND = 10**9


@pytest.fixture(scope="module")
def student():
    return read_weights(DEFAULT_STUDENT)


@pytest.fixture
def fuser(student):
    return Fuser(student, GainSettings(), device="cpu")


def night(size_px=(96, 64)):
    """A dark picture, and 8-bit thermal with a warm person in it that RGB does not show."""
    w, h = size_px
    rgb = np.random.default_rng(0).integers(15, 25, (h, w, 3), np.uint8)
    thermal = np.full((h, w), 60, np.uint8)
    thermal[20:50, 40:52] = 230
    return rgb, thermal


def pair(rgb, thermal, encoding="rgb8", stamp_ns=SECOND, epoch=0):
    frames = Frame(stamp_ns, "", rgb, encoding), Frame(stamp_ns, "", thermal, "mono8")
    return Pair(*frames, Mode.FUSED, epoch=epoch)


def test_a_person_that_only_thermal_sees_stands_out(fuser):
    rgb, thermal = night()
    pixels = fuser.fuse(pair(rgb, thermal), identity()).pixels.astype(float)
    assert pixels[25:45, 43:49].mean() > pixels[25:45, 5:30].mean() + 30


def test_channel_order_changes_nothing_but_the_channel_order(fuser):
    rgb, thermal = night()
    rgb[..., 0] += 40
    fused_rgb = fuser.fuse(pair(rgb, thermal), identity()).pixels
    fused_bgr = fuser.fuse(pair(np.ascontiguousarray(rgb[..., ::-1]), thermal, "bgr8"), identity()).pixels
    np.testing.assert_array_equal(fused_bgr[..., ::-1], fused_rgb)


def test_outside_the_thermal_camera_s_view_the_picture_is_rgb(fuser):
    rgb, thermal = night()
    half = homography(np.array([[1, 0, 48], [0, 1, 0], [0, 0, 1.0]]))  # thermal covers the right half only
    fused = fuser.fuse(pair(rgb, thermal), half)
    np.testing.assert_array_equal(fused.pixels[:, :47], rgb[:, :47])
    assert fused.valid_fraction == pytest.approx(0.5, abs=0.02)


def test_a_new_calibration_brings_its_own_weight(fuser):
    rgb, thermal = night()
    for shift_px in (48, 24):
        moved = homography(np.array([[1, 0, shift_px], [0, 1, 0], [0, 0, 1.0]]))
        pixels = fuser.fuse(pair(rgb, thermal), moved).pixels
        np.testing.assert_array_equal(pixels[:, : shift_px - 1], rgb[:, : shift_px - 1])
    assert not np.array_equal(pixels[:, 40:48], rgb[:, 40:48])


def test_counts_are_normalised_over_time_and_afresh_in_a_new_epoch(fuser):
    rgb, thermal = night()
    counts = thermal.astype(np.uint16) * 10 + 29_000
    first = fuser.fuse(pair(rgb, counts), identity())
    later = fuser.fuse(pair(rgb, counts + 500, stamp_ns=SECOND + SECOND // 30), identity())
    fresh = fuser.fuse(pair(rgb, counts + 500, stamp_ns=SECOND + SECOND // 15, epoch=1), identity())
    assert (
        first.thermal_range[1]
        < later.thermal_range[1]
        < fresh.thermal_range[1]
        == first.thermal_range[1] + 500
    )


def test_the_same_pair_gives_the_same_pixels(student):
    rgb, thermal = night()
    one, two = (Fuser(student, GainSettings()).fuse(pair(rgb, thermal), identity()).pixels for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_sizes_that_do_not_fit_the_calibration_raise_with_the_cause(fuser):
    rgb, thermal = night()
    with pytest.raises(RegistrationError):
        fuser.fuse(pair(rgb, np.dstack([thermal] * 3)), identity())


ON_A_CPU_ONLY_MACHINE = """
import sys
from fusionproxy_ros.fusion import devices, fuser
from fusionproxy_ros.ros import node
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.fusion.gain_control import GainSettings

devices.gpus_of_driver = lambda: 0
asked = fuser.Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "auto")
asked.warm_up()
devices.free_gpu_memory()
print(asked.device, "torch" in sys.modules, devices.torch_is_needed())
"""


def test_on_a_cpu_the_whole_node_does_without_torch():
    done = subprocess.run([sys.executable, "-c", ON_A_CPU_ONLY_MACHINE], capture_output=True, text=True)
    assert done.stdout.split() == ["cpu", "False", "False"], done.stderr


def test_a_gpu_without_torch_leaves_the_work_to_the_cpu_and_says_so(monkeypatch, student):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(devices, "gpus_of_driver", lambda: 1)
    warnings = []
    assert Fuser(student, GainSettings(), "auto", warn=warnings.append).device == "cpu"
    assert len(warnings) == 1 and "torch, which would use a GPU, is not installed" in warnings[0]
    with pytest.raises(DeviceError, match="is not installed"):
        Fuser(student, GainSettings(), "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_asking_for_a_gpu_that_is_not_there_says_so(student):
    with pytest.raises(DeviceError, match="set it to 'auto' or 'cpu'"):
        Fuser(student, GainSettings(), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_agree_within_one_grey_level(student):
    rgb, thermal = night((640, 480))
    gpu, cpu = (
        Fuser(student, GainSettings(), device).fuse(pair(rgb, thermal), identity()).pixels.astype(int)
        for device in ("cuda", "cpu")
    )
    assert np.abs(gpu - cpu).max() <= 1


def test_without_the_compiled_code_torch_makes_the_same_picture_to_one_grey_level_and_says_so(
    monkeypatch, tmp_path, student
):
    (rgb, thermal), warnings = night(), []
    compiled = Fuser(student, GainSettings(), "cpu").fuse(pair(rgb, thermal), identity()).pixels
    native._library.cache_clear()
    monkeypatch.setattr(native, "FOLDERS", [tmp_path])
    on_torch = Fuser(student, GainSettings(), "cpu", warn=warnings.append)
    for register in (identity(), homography(np.eye(3))):
        picture = on_torch.fuse(pair(rgb, thermal), register).pixels
        assert np.abs(picture.astype(int) - compiled).max() <= 1
    assert len(warnings) == 1 and "the student runs on torch, which is slower: libstudent.so" in warnings[0]
