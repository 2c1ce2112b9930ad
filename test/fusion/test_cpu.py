"""The compiled student is the student: the same picture by any instructions, at any size, on any number of threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.core.pictures import to_grey_levels
from fusionproxy_ros.distill.data import to_tensor
from fusionproxy_ros.fusion import cpu as native
from fusionproxy_ros.fusion.colour import add_luma
from fusionproxy_ros.fusion.cpu import NativeError, NativeStudent
from fusionproxy_ros.fusion.network import Student, load_student, weights_of
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT

NEEDS = {"base": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
WIDTHS = [(8, 24, 48), (8, 16, 32), (16, 32, 64), (8, 8, 8), (5, 12, 40)]


def student_of(widths):
    """A random student that answers differently at every pixel."""
    torch.manual_seed(sum(widths))
    student = Student(widths).eval().requires_grad_(False)
    torch.nn.init.normal_(student.head.weight, std=0.05)
    return student


STUDENTS = {widths: student_of(widths) for widths in WIDTHS}
SHIPPED = load_student(DEFAULT_STUDENT)
WEIGHTS = weights_of(SHIPPED)


def pictures(height, width, seed=0, weighted=False):
    """Luma, thermal and weight, all smooth, with whatever a camera can show between black and white."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (3, height // 7 + 2, width // 7 + 2), np.uint8)
    luma, thermal, trust = (cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in cells)
    weight = np.clip(2 * trust.astype(np.float32) / 255 - 0.5, 0, 1)  # some of it 0, some 1
    return luma, thermal, weight if weighted else None


def coloured(luma, seed=0):
    """A picture in colour, much of it dark, whose luma it is nearly."""
    tint = np.random.default_rng(seed).integers(-30, 31, (*luma.shape, 3))
    return np.clip(luma[..., None] // 2 + tint, 0, 255).astype(np.uint8)


def by_torch(student, luma, thermal, weight, rgb=None):
    trust = None if weight is None else torch.from_numpy(weight)[None, None]
    fused = student(to_tensor(luma), to_tensor(thermal), trust)[0, 0].numpy()
    return to_grey_levels(fused) if rgb is None else add_luma(rgb, luma, 255 * fused)


def assert_alike(got, wanted):
    """But for rounding where a value lies between two grey levels."""
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= 1 and (difference > 0).sum() <= 1 + 1e-3 * difference.size


def variants():
    cpu = Path("/proc/cpuinfo").read_text().split()
    return [
        pytest.param(name, marks=pytest.mark.skipif(not needs <= set(cpu), reason=f"no {name} here"))
        for name, needs in NEEDS.items()
    ]


@pytest.mark.slow
@given(
    st.sampled_from(WIDTHS),
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_any_size_and_any_widths_give_the_picture_that_torch_gives(widths, height, width, seed, weighted):
    student, given_ = STUDENTS[widths], pictures(height, width, seed, weighted)
    assert_alike(NativeStudent(weights_of(student)).fuse(*given_), by_torch(student, *given_))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variant", variants())
def test_every_set_of_instructions_gives_the_picture_that_torch_gives(variant, weighted):
    given_ = pictures(480, 640, weighted=weighted)
    assert_alike(NativeStudent(WEIGHTS, variant).fuse(*given_), by_torch(SHIPPED, *given_))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("size", [(480, 640), (35, 37)])
def test_every_set_of_instructions_paints_the_picture_that_numpy_paints(variant, weighted, size):
    luma, thermal, weight = pictures(*size, weighted=weighted)
    rgb = coloured(luma)
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    got = NativeStudent(WEIGHTS, variant).fuse(luma, thermal, weight, 3, rgb)
    assert_alike(got, by_torch(SHIPPED, luma, thermal, weight, rgb))


def test_the_best_instructions_of_this_processor_are_chosen():
    cpu = set(Path("/proc/cpuinfo").read_text().split())
    best = [name for name, needs in NEEDS.items() if needs <= cpu][-1]
    assert native._library().student_variant().decode() == best


@pytest.mark.skipif(
    not NEEDS["avx512"] <= set(Path("/proc/cpuinfo").read_text().split()), reason="no avx512 here"
)
def test_wider_vectors_change_no_bit():
    given_ = pictures(200, 333, weighted=True)
    for rgb in (None, coloured(given_[0])):
        one, two = (NativeStudent(WEIGHTS, variant).fuse(*given_, rgb=rgb) for variant in ("avx2", "avx512"))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_picture_is_the_same_to_the_last_bit_whatever_the_number_of_threads(weighted):
    student, given_ = NativeStudent(WEIGHTS), pictures(480, 640, weighted=weighted)
    for rgb in (None, coloured(given_[0])):
        alone = student.fuse(*given_, threads=1, rgb=rgb)
        for threads in (2, 3, 7):
            np.testing.assert_array_equal(student.fuse(*given_, threads=threads, rgb=rgb), alone)


def test_many_threads_may_call_one_student_with_pictures_of_several_sizes():
    student = NativeStudent(WEIGHTS)
    inputs = [pictures(40 + 16 * (n % 3), 64 + 30 * (n % 5), n, n % 2 == 0) for n in range(30)]
    alone = [NativeStudent(WEIGHTS).fuse(*each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(
            pool.map(lambda each: student.fuse(*each, threads=2), inputs), alone, strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_where_the_weight_is_zero_the_picture_is_luma():
    luma, thermal, weight = pictures(96, 128, weighted=True)
    fused = NativeStudent(WEIGHTS).fuse(luma, thermal, weight)
    assert (weight == 0).any() and (fused != luma).any()
    np.testing.assert_array_equal(fused[weight == 0], luma[weight == 0])


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (16, 2000), (480, 640)])
def test_nothing_is_written_behind_the_workspace(monkeypatch, size):
    student = NativeStudent(weights_of(STUDENTS[5, 12, 40]))
    floats = student._floats(*size)
    space = np.zeros(floats + 4096, np.float32)
    space[floats:] = 7
    monkeypatch.setattr(student, "_workspace", lambda *_: space)
    wanted = by_torch(STUDENTS[5, 12, 40], *pictures(*size, weighted=True))
    assert_alike(student.fuse(*pictures(*size, weighted=True)), wanted)
    assert (space[floats:] == 7).all() and space[:floats].any()


def test_views_are_read_as_they_look_and_stay_untouched():
    luma, thermal, _ = pictures(64, 96)
    before = luma.copy()
    turned = NativeStudent(WEIGHTS).fuse(luma[:, ::-1], thermal[:, ::-1])
    np.testing.assert_array_equal(
        turned, NativeStudent(WEIGHTS).fuse(luma[:, ::-1].copy(), thermal[:, ::-1].copy())
    )
    np.testing.assert_array_equal(luma, before)


def test_planes_of_several_sizes_are_refused():
    luma, thermal, weight = pictures(64, 96, weighted=True)
    for wrong in (
        (luma, thermal[:-1]),
        (luma, thermal, weight[:, 1:]),
        (luma[:0], thermal[:0]),
        (luma, thermal, weight, 1, coloured(luma)[:, 1:]),
        (luma, thermal, weight, 1, luma),
    ):
        with pytest.raises(ValueError, match="give them one size"):
            NativeStudent(WEIGHTS).fuse(*wrong)


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_compiled_code_that_is_missing_or_broken_is_named_with_the_cure(monkeypatch, tmp_path, content):
    if content:
        (tmp_path / "libstudent.so").write_bytes(content)
    monkeypatch.setattr(native, "FOLDERS", [tmp_path])
    native._library.cache_clear()
    with pytest.raises(NativeError, match=r"libstudent\.so .*install"):
        NativeStudent(WEIGHTS)
