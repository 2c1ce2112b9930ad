"""The path of a GPU, run on the CPU, makes the CPU's pictures; what only CUDA can show is skipped without it."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch

from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.core.pictures import luma_of
from fusionproxy_ros.distill.data import find_pairs, load, split
from fusionproxy_ros.fusion import gpu
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.gpu import DeviceFuser
from fusionproxy_ros.fusion.network import load_student, weights_of
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.registration import Registered
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

CPU = torch.device("cpu")
SIZES_PX = (320, 240), (333, 211), (97, 131), (34, 45)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def student():
    return load_student(DEFAULT_STUDENT)


@pytest.fixture(scope="module")
def on_cpu(student):
    return Fuser(weights_of(student), GainSettings(), "cpu", 1)


@lru_cache
def images(size_px, t_s):
    scene = NightRoad(default_calibration(size_px, (160, 128)))
    return scene.rgb(t_s), scene.thermal(t_s)


def night(size_px, covered, encoding="rgb8", t_s=12.0):
    """A pair of the night road, dazzled, and its registration; `covered`: thermal covers all of RGB."""
    rgb, thermal = images(size_px, t_s)
    extrinsic = registration.extrinsic(default_calibration(size_px, (160, 128)), 20.0)
    pair = Pair(Frame(1, "", rgb, encoding), Frame(1, "", thermal, "mono16"), Mode.FUSED)
    return pair, registration.identity() if covered else extrinsic


def both(on_cpu, fuser, pair, register):
    """The CPU's picture, and that of `fuser`."""
    prepared = on_cpu.prepare(pair, register)
    theirs, _ = fuser.fuse(pair.rgb, prepared.registered, prepared.range)
    return on_cpu.finish(pair.rgb, prepared).pixels, theirs


def inputs(size_px=(64, 48), seed=0, weight=None):
    """Noise in all of RGB and thermal, which lies on RGB's grid."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (*size_px[::-1], 3), np.uint8)
    thermal = rng.integers(0, 256, size_px[::-1], np.uint8)
    return Frame(1, "", rgb, "rgb8"), Registered(thermal, weight=weight), (0.0, 255.0)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("covered", [True, False], ids=["whole", "weighted"])
@pytest.mark.parametrize("size_px", SIZES_PX)
def test_in_float32_the_picture_is_the_cpu_path_s_but_for_rounding(
    student, on_cpu, size_px, covered, encoding
):
    ours = DeviceFuser(student, CPU, torch.float32)
    difference = cv2.absdiff(*both(on_cpu, ours, *night(size_px, covered, encoding)))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("covered", [True, False], ids=["whole", "weighted"])
@pytest.mark.parametrize("size_px", SIZES_PX)
def test_in_half_precision_the_picture_is_within_one_grey_level(student, on_cpu, size_px, covered, encoding):
    pair, register = night(size_px, covered, encoding)
    expected, got = both(on_cpu, DeviceFuser(student, CPU), pair, register)
    assert cv2.absdiff(expected, got).max() <= 1
    assert (expected != got).mean() < 0.02


def test_noise_that_saturates_channels_is_within_one_grey_level_too(student, on_cpu):
    rgb, registered, _ = inputs((160, 112))
    pair = Pair(rgb, Frame(1, "", registered.source, "mono8"), Mode.FUSED)
    expected, got = both(on_cpu, DeviceFuser(student, CPU), pair, registration.identity())
    assert cv2.absdiff(expected, got).max() <= 1
    assert {0, 255} <= set(expected.ravel())


@pytest.mark.slow
def test_real_pairs_are_fused_within_one_grey_level(student, shared_data):
    on_cpu, on_device = (Fuser(weights_of(student), GainSettings(), "cpu", 1) for _ in range(2))
    on_device._gpu, differing = DeviceFuser(student, CPU), []
    for example in map(load, split(find_pairs(shared_data / "pairs"))[1]):
        frames = Frame(1, "", example.bgr, "bgr8"), Frame(1, "", example.thermal, "mono8")
        pair = Pair(*frames, Mode.FUSED)
        expected, got = (fuser.fuse(pair, registration.identity()).pixels for fuser in (on_cpu, on_device))
        assert cv2.absdiff(expected, got).max() <= 1, example.file
        differing.append((expected != got).mean())
    print(f"{np.mean(differing):.2%} of the values of {len(differing)} pairs differ, by one")


@pytest.mark.parametrize("mode", ["auto", "fixed"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_thermal_is_the_cpu_path_s_to_the_last_bit(student, dtype, mode):
    rgb = inputs((320, 240))[0]  # so large that the AGC looks at a sample
    counts = np.random.default_rng(0).integers(0, 256 if dtype == np.uint8 else 2**16, (60, 81)).astype(dtype)
    if dtype == np.float32:
        counts = 250 + counts / 1000
        counts[20:30, 20:30], counts[40:50, 5:9] = np.nan, np.inf
    aligned = cv2.resize(counts, rgb.size_px, interpolation=cv2.INTER_NEAREST)
    warped = registration.homography(np.array([[3.9, 0.3, -27], [0.15, 3.8, 8], [0, 1e-4, 1]]))
    config = GainSettings(mode, low=20, high=220)
    on_cpu, on_device = (Fuser(weights_of(student), config, "cpu", 1) for _ in range(2))
    on_device._gpu = DeviceFuser(student, CPU)
    for n, (thermal, register) in enumerate(((counts, warped), (aligned, registration.identity()))):
        pair = Pair(rgb, Frame(n, "", thermal, "mono16"), Mode.FUSED, epoch=n)
        wanted, got = (fuser.fuse(pair, register) for fuser in (on_cpu, on_device))
        assert got.thermal_range == wanted.thermal_range
        np.testing.assert_array_equal(got.thermal, wanted.thermal)


def test_a_student_that_answers_with_nan_breaks_nothing_but_its_picture(student):
    broken = copy.deepcopy(student)
    broken.head.bias.data[:] = float("nan")
    rgb, *thermal = inputs()
    assert DeviceFuser(broken, CPU).fuse(rgb, *thermal)[0].shape == rgb.pixels.shape


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_luma_is_opencv_s_for_every_colour(encoding):
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    of_encoding = gpu.LUMA_OF_RGB if encoding == "rgb8" else gpu.LUMA_OF_RGB.flip(0)
    luma = (torch.from_numpy(colours) * of_encoding).sum(-1).add_(0.5).floor_()
    np.testing.assert_array_equal(luma.numpy(), luma_of(Frame(0, "", colours, encoding)))


def test_where_the_weight_is_zero_the_picture_is_rgb_in_half_precision_too(student):
    weight = np.zeros((48, 64), np.float32)
    weight[:, 40:] = 1
    rgb, *thermal = inputs(weight=weight)
    got, _ = DeviceFuser(student, CPU).fuse(rgb, *thermal)
    np.testing.assert_array_equal(got[:, :40], rgb.pixels[:, :40])
    assert not np.array_equal(got[:, 40:], rgb.pixels[:, 40:])


def test_a_stream_whose_size_encoding_and_calibration_change_is_fused_as_each_frame_alone(student):
    fuser = DeviceFuser(student, CPU, torch.float32)
    for n, size_px in enumerate(((64, 48), (80, 50), (64, 48), (50, 80), (48, 64), (64, 48))):
        rgb, registered, full = inputs(size_px, n)
        rgb = Frame(1, "", rgb.pixels, ("rgb8", "bgr8")[n // 2 % 2])
        right_half = np.zeros(registered.source.shape, np.float32)
        right_half[:, size_px[0] // 2 :] = 0.5
        warm = registered.source.astype(np.uint16) * 150
        for each in (
            *(replace(registered, weight=weight) for weight in (None, right_half, 1 - right_half, None)),
            registration.homography(np.diag([1.2, 1, 1])).register(warm, size_px),
            registration.homography(np.diag([1, 1.3, 1])).register(warm, size_px),
            Registered(warm.astype(np.float32)),
        ):
            given = rgb, each, full if each.source.dtype == np.uint8 else (3000.0, 40_000.0)
            alone = DeviceFuser(student, CPU, torch.float32).fuse(*given)
            for got, wanted in zip(fuser.fuse(*given), alone, strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_a_picture_that_was_handed_out_stays_as_it_is(student):
    fuser = DeviceFuser(student, CPU)
    first = fuser.fuse(*inputs(seed=0))
    before = [image.copy() for image in first]
    second = fuser.fuse(*inputs(seed=1))
    np.testing.assert_array_equal(first[0], before[0])
    np.testing.assert_array_equal(first[1], before[1])
    for image in second:
        image[:] = 0  # it is the caller's
    np.testing.assert_array_equal(fuser.fuse(*inputs(seed=0))[0], before[0])


def test_pairs_are_finished_on_the_device_from_any_thread_in_any_order(student):
    on_cpu, fuser = (Fuser(weights_of(student), GainSettings(), "cpu", 1) for _ in range(2))
    fuser._gpu = DeviceFuser(student, CPU, torch.float32)
    fuser.warm_up((64, 48))
    pairs = [night(size_px, covered) for size_px in SIZES_PX[1:] for covered in (True, False)]
    expected = [on_cpu.fuse(*each).pixels for each in pairs]
    prepared = [(pair.rgb, fuser.prepare(pair, register)) for pair, register in pairs] * 2
    alone = [fuser.finish(*each).pixels for each in prepared]
    with ThreadPoolExecutor(4) as threads:
        fused = list(threads.map(lambda each: fuser.finish(*each), prepared[::-1]))[::-1]
    for got, one, picture in zip(fused, alone, expected * 2, strict=True):
        np.testing.assert_array_equal(got.pixels, one)
        assert cv2.absdiff(one, picture).max() <= 1


def test_frames_cut_out_of_larger_ones_are_read_as_they_look(student):
    fuser = DeviceFuser(student, CPU, torch.float32)
    rgb, registered, full = inputs((80, 60))
    rgb, thermal = rgb.pixels[5:53, 7:71], registered.source[5:53, 7:71]
    got, _ = fuser.fuse(Frame(1, "", rgb, "rgb8"), Registered(thermal), full)
    whole, _ = fuser.fuse(Frame(1, "", rgb.copy(), "rgb8"), Registered(thermal.copy()), full)
    np.testing.assert_array_equal(got, whole)


def place_of(fuser, shape):
    """Where it fuses `inputs` of this shape."""
    return fuser._place(shape, shape, np.dtype(np.uint8), True)


def test_buffers_of_the_last_two_sizes_are_kept_and_no_others(student):
    fuser, places = DeviceFuser(student, CPU), []
    for width_px in (64, 80, 96):
        fuser.fuse(*inputs((width_px, 48)))
        places.append(weakref.ref(place_of(fuser, (48, width_px))))
    assert [place() is None for place in places] == [True, False, False]
    fuser.fuse(*inputs((80, 48)))
    assert place_of(fuser, (48, 80)) is places[1]()


def test_a_dropped_fuser_gives_its_memory_back_at_once(student):
    fuser = DeviceFuser(student, CPU)
    fuser.fuse(*inputs())
    place = weakref.ref(place_of(fuser, (48, 64)))
    gc.disable()  # nothing may wait for a round of the collector: the next fuser needs the GPU's memory
    try:
        del fuser
        assert place() is None
    finally:
        gc.enable()


def test_the_student_that_was_given_stays_where_and_what_it_is(student):
    DeviceFuser(student, CPU, torch.float16).fuse(*inputs())
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.slow
def test_what_is_captured_never_asks_for_a_value_nor_touches_the_host(student):
    """A graph can do neither; tensors of the meta device have no values and mix with no others."""
    nowhere = torch.device("meta")
    with torch.inference_mode():
        there = copy.deepcopy(student).to(nowhere, torch.float16)
        for dtype in (np.uint8, np.uint16, np.float32):
            for aligned in (True, False):
                sizes = (97, 131), (97, 131) if aligned else (60, 81)
                gpu._Place(there, nowhere, pytest.fail, *sizes, np.dtype(dtype), aligned)._run()


def test_a_capture_that_fails_is_told_and_done_without(monkeypatch):
    def fail(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    told = []
    monkeypatch.setattr(gpu, "_capture", fail)
    assert gpu._graph_of(lambda: None, told.append) is None
    assert len(told) == 1 and "no CUDA graph" in told[0] and "not permitted" in told[0]


def test_want_of_memory_during_a_capture_is_not_hidden(monkeypatch):
    def fail(work):
        raise torch.OutOfMemoryError("CUDA out of memory")

    told = []
    monkeypatch.setattr(gpu, "_capture", fail)
    with pytest.raises(torch.OutOfMemoryError):
        gpu._graph_of(lambda: None, told.append)
    assert not told


def test_want_of_memory_in_a_frame_reaches_the_caller_and_the_next_frame_is_fused(student, monkeypatch):
    fuser = DeviceFuser(student, CPU)
    expected, _ = fuser.fuse(*inputs())

    def fail(place):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(gpu._Place, "_run", fail)
        fuser.fuse(*inputs(seed=1))
    np.testing.assert_array_equal(fuser.fuse(*inputs())[0], expected)


# --- only a GPU shows these ---------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("covered", [True, False], ids=["whole", "weighted"])
@pytest.mark.parametrize("size_px", SIZES_PX)
def test_on_a_gpu_the_picture_is_within_one_grey_level(student, on_cpu, size_px, covered, encoding):
    fuser = DeviceFuser(student, torch.device("cuda"), warn=pytest.fail)
    for t_s in (2.0, 12.0):
        pair, register = night(size_px, covered, encoding, t_s)
        assert cv2.absdiff(*both(on_cpu, fuser, pair, register)).max() <= 1


@needs_cuda
def test_on_a_gpu_the_graph_makes_the_pictures_that_single_kernels_make(student, monkeypatch):
    graph = DeviceFuser(student, torch.device("cuda"), warn=pytest.fail)
    captured = [graph.fuse(*inputs(seed=seed))[0] for seed in range(3)]
    monkeypatch.setattr(gpu, "_graph_of", lambda work, warn: None)
    eager = DeviceFuser(student, torch.device("cuda"))
    for seed, picture in enumerate(captured):
        np.testing.assert_array_equal(eager.fuse(*inputs(seed=seed))[0], picture)


@needs_cuda
def test_on_a_gpu_a_capture_that_fails_leaves_the_device_working(student, monkeypatch):
    told = []
    expected, _ = DeviceFuser(student, torch.device("cuda")).fuse(*inputs())
    honest = gpu._Place._run

    def run_that_waits(place):
        honest(place)
        place._answer.copy_(place._fused)  # a copy that waits is not permitted in a capture

    monkeypatch.setattr(gpu._Place, "_run", run_that_waits)
    fuser = DeviceFuser(student, torch.device("cuda"), warn=told.append)
    np.testing.assert_array_equal(fuser.fuse(*inputs())[0], expected)
    assert len(told) == 1


@needs_cuda
def test_on_a_gpu_a_dropped_fuser_gives_its_memory_back(student):
    free = torch.cuda.memory_allocated()
    fuser = DeviceFuser(student, torch.device("cuda"))
    for width_px in (640, 800, 960, 1120):
        fuser.fuse(*inputs((width_px, 480)))
    del fuser
    assert torch.cuda.memory_allocated() <= free + (1 << 20)
