"""Every pair is answered: one place decides picture, mode and reason, in the same way for whoever asks."""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.core.errors import NotFusedError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import homography, identity
from fusionproxy_ros.pipeline import answers
from fusionproxy_ros.pipeline.answers import Answers
from fusionproxy_ros.pipeline.live_registration import CurrentRegistration

NOTHING_SEEN = homography(np.array([[1.0, 0, 10_000], [0, 1, 0], [0, 0, 1]]))


def pair(mode=Mode.FUSED, reason="", thermal=True, depth=False):
    rng = np.random.default_rng(0)
    rgb = Frame(1, "", rng.integers(0, 255, (48, 64, 3), np.uint8), "rgb8")
    grey = Frame(1, "", rng.integers(0, 255, (48, 64), np.uint8), "mono8") if thermal else None
    metres = Frame(1, "", np.full((48, 64), 5, np.float32), "32FC1") if depth else None
    return Pair(rgb, grey, mode, reason, depth=metres)


@pytest.fixture(scope="module")
def fuser():
    return Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "cpu", 1)


def answering(fuser, register=None, **options):
    current = CurrentRegistration(register or identity())
    return Answers(lambda _: current, lambda: nullcontext(fuser), **options)


def test_a_pair_that_fits_is_fused_without_a_reason_and_says_how_it_was_registered(fuser):
    answer = answering(fuser).answer(pair())
    assert (answer.fused.mode, answer.fused.reason) == (Mode.FUSED, "")
    assert answer.current.registration and answer.fused.thermal is not None


def test_a_held_frame_is_fused_and_keeps_its_reason(fuser):
    fused = answering(fuser).answer(pair(Mode.HELD, "no thermal frame within sync_tolerance_s")).fused
    assert (fused.mode, fused.reason) == (Mode.HELD, "no thermal frame within sync_tolerance_s")


def test_thermal_that_reaches_no_pixel_passes_rgb_through_and_says_so(fuser):
    given_pair = pair()
    fused = answering(fuser, NOTHING_SEEN).answer(given_pair).fused
    assert fused.mode is Mode.PASSTHROUGH and "sees nothing of the RGB picture" in fused.reason
    assert fused.pixels is given_pair.rgb.pixels and fused.thermal is None


def test_depth_that_is_wanted_and_missing_is_a_reason_but_fuses(fuser):
    wanted = answering(fuser, wants_depth=True)
    assert (wanted.answer(pair()).fused.mode, wanted.answer(pair()).fused.reason) == (
        Mode.FUSED,
        answers.NO_DEPTH,
    )
    assert not wanted.answer(pair(depth=True)).fused.reason


def test_thermal_whose_contrast_is_limited_says_so(monkeypatch):
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "cpu", 1)
    monkeypatch.setattr(fuser._contrast_limit, "follow", lambda *_: 0.5)
    fused = answering(fuser).answer(pair()).fused
    assert (fused.mode, fused.reason) == (
        Mode.FUSED,
        answers.CONTRAST_LIMITED,
    ) and fused.thermal_contrast == 0.5


def test_a_fault_is_reported_and_the_frame_answered_all_the_same(fuser, monkeypatch):
    reported = []
    monkeypatch.setattr(fuser, "finish", lambda *_: 1 / 0)
    fused = answering(fuser, report=lambda: reported.append(1)).answer(pair()).fused
    assert fused.mode is Mode.PASSTHROUGH and "ZeroDivisionError" in fused.reason and reported == [1]


def test_the_fuser_is_borrowed_once_for_a_pair_so_that_no_other_one_finishes_it(fuser):
    borrowed = []

    @contextmanager
    def lend():
        borrowed.append(1)
        yield fuser

    Answers(lambda _: CurrentRegistration(identity()), lend).answer(pair())
    assert borrowed == [1]


def test_a_frame_whose_mode_stands_and_whose_picture_fails_is_no_silent_success(fuser, monkeypatch):
    """Offline it is counted as fused by then."""
    both = answering(fuser)
    prepared = both.prepare(pair())
    monkeypatch.setattr(fuser, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        both.finish(prepared)


def test_what_stalls_passes_rgb_and_after_a_second_it_hangs():
    given_pair = pair()
    assert answers.stalled(given_pair, 10).fused.reason == answers.STALLS
    late = answers.stalled(given_pair, 2 * answers.HANGS_NS).fused
    assert late.reason == answers.HANGS and late.pixels is given_pair.rgb.pixels


@given(
    mode=st.sampled_from([Mode.FUSED, Mode.HELD]),
    reason=st.sampled_from(["", "no thermal frame within sync_tolerance_s"]),
    thermal=st.booleans(),
    depth=st.booleans(),
    wants_depth=st.booleans(),
    problem=st.sampled_from(["", "waiting for rgb/camera_info"]),
    register=st.sampled_from([identity(), NOTHING_SEEN]),
)
def test_prepare_says_what_finish_does_and_nothing_passes_without_a_reason(
    fuser, mode, reason, thermal, depth, wants_depth, problem, register
):
    def registration(_):
        if problem:
            raise NotFusedError(problem)
        return CurrentRegistration(register)

    given_pair = pair(mode, reason, True, depth) if thermal else pair(Mode.PASSTHROUGH, "no thermal", False)
    both = Answers(registration, lambda: nullcontext(fuser), wants_depth)
    prepared = both.prepare(given_pair)
    fused, at_once = both.finish(prepared).fused, both.answer(given_pair).fused
    assert (at_once.mode, at_once.reason) == (fused.mode, fused.reason)
    np.testing.assert_array_equal(at_once.pixels, fused.pixels)
    assert (prepared.mode, prepared.reason) == (fused.mode, fused.reason)
    assert (
        (fused.mode is Mode.PASSTHROUGH) == (fused.pixels is given_pair.rgb.pixels) == (fused.thermal is None)
    )
    assert fused.reason or fused.mode is mode
    assert (fused.mode is Mode.PASSTHROUGH) == (not thermal or bool(problem) or register is NOTHING_SEEN)
