"""Whatever the fuser does, the RGB frame is answered, and the fuser comes back."""

import threading
import time
from functools import partial

import numpy as np
import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

import torch

from fusionproxy_ros.core.errors import NotFusedError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings, StudentSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import identity
from fusionproxy_ros.pipeline import fuser_pool
from fusionproxy_ros.pipeline.answers import Answers
from fusionproxy_ros.pipeline.fuser_pool import FuserPool
from fusionproxy_ros.pipeline.live_registration import CurrentRegistration
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.ros import node


def a_pair():
    rng = np.random.default_rng(0)
    rgb, thermal = rng.integers(0, 255, (48, 64, 3), np.uint8), rng.integers(0, 255, (48, 64), np.uint8)
    return Pair(Frame(1, "", rgb, "rgb8"), Frame(1, "", thermal, "mono8"), Mode.FUSED)


def answered(pool, name="", pair=None):
    """What the cameras `name` publish for a pair."""
    current = CurrentRegistration(identity())
    return Answers(lambda _: current, partial(pool.lend, name)).answer(pair or a_pair()).fused


class Hanging:
    """In place of a fuser's `finish`: calls it once `go_on` is set; raises `error` instead, if there is one."""

    def __init__(self, finish, error=None):
        self.finish, self.error, self.begun, self.go_on = finish, error, threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.begun.set()
        self.go_on.wait(10)
        if self.error:
            raise self.error
        return self.finish(*arguments)


def hang(pool, name="", error=None):
    """Fuse with the cameras `name` in a thread that hangs: the thread, its answers, and what hangs."""
    hanging, answers = Hanging(pool._fusers[name].finish, error), []
    pool._fusers[name].finish = hanging
    behind = threading.Thread(target=lambda: answers.append(answered(pool, name)))
    behind.start()
    hanging.begun.wait(10)
    return behind, answers, hanging


class Failing:
    """Builds real fusers whose student raises `error` for the first `count` of them."""

    def __init__(self, error, count, build_errors=0):
        self.error, self.left, self.build_errors = error, count, build_errors
        self.devices = []

    def __call__(self, device):
        self.devices.append(device)
        if len(self.devices) > 1 and self.build_errors:
            self.build_errors -= 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "cpu")
        if self.left:
            self.left -= 1

            def fail(*_):
                raise self.error

            fuser.finish = fail
        return {"": fuser}


def test_a_fuser_that_hangs_in_a_thread_that_was_left_behind_is_not_used_by_another():
    owner = FuserPool(Failing(None, 0), "cpu", print)
    behind, answers, hanging = hang(owner)
    fused = answered(owner)
    assert fused.mode is Mode.PASSTHROUGH and "hangs" in fused.reason
    hanging.go_on.set()
    behind.join()
    assert answers[0].mode is answered(owner).mode is Mode.FUSED


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(fuser_pool, "FIRST_DELAY_S", 0.02)


def until_fused(pool):
    reasons = []
    end_s = time.monotonic() + 10
    while (fused := answered(pool)).mode is not Mode.FUSED:
        reasons.append(fused.reason)
        assert fused.mode is Mode.PASSTHROUGH and time.monotonic() < end_s
        time.sleep(0.005)
    return reasons


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: the launch timed out")])
def test_a_fuser_that_hangs_for_good_is_built_again_on_the_cpu_whatever_it_does_one_day(hasty, error):
    build = Failing(None, 0)
    pool = FuserPool(build, "auto", lambda _: None)
    behind, _, hanging = hang(pool, error=error)
    pool.abandon("")
    assert "hangs for good" in pool.error
    until_fused(pool)
    assert build.devices == ["auto", "cpu"] and not pool.error
    hanging.go_on.set()
    behind.join()
    assert answered(pool).mode is Mode.FUSED and build.devices == ["auto", "cpu"]


def two_pairs():
    front, rear = Failing(None, 0), Failing(None, 0)
    return front, lambda device: front(device) | {"rear": rear(device)[""]}


def test_while_one_pair_s_fuser_hangs_the_other_s_goes_on():
    pool = FuserPool(two_pairs()[1], "cpu", print)
    behind, answers, hanging = hang(pool, "rear")
    assert answered(pool).mode is Mode.FUSED
    hanging.go_on.set()
    behind.join()
    assert answers[0].mode is Mode.FUSED


def test_a_device_that_hangs_under_two_pairs_is_left_for_the_cpu_once(hasty):
    front, build = two_pairs()
    pool = FuserPool(build, "auto", lambda _: None)
    threads = [hang(pool, name) for name in ("", "rear")]
    for name in ("", "rear"):
        pool.abandon(name)
    until_fused(pool)
    assert answered(pool, "rear").mode is Mode.FUSED
    for behind, _, hanging in threads:
        hanging.go_on.set()
        behind.join()
    time.sleep(0.1)
    assert front.devices == ["auto", "cpu"] and answered(pool).mode is Mode.FUSED


def test_two_pairs_that_fail_at_once_are_built_anew_once(hasty):
    front, build = two_pairs()
    pool = FuserPool(build, "cpu", lambda _: None)
    threads = [hang(pool, name, RuntimeError("CUDA error")) for name in ("", "rear")]
    for behind, answers, hanging in threads:
        hanging.go_on.set()
        behind.join()
        assert answers[0].mode is Mode.PASSTHROUGH and "CUDA error" in answers[0].reason
    until_fused(pool)
    time.sleep(0.1)
    assert front.devices == ["cpu", "cpu"]


@pytest.mark.parametrize(
    "error",
    [MemoryError("no memory"), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error")],
)
def test_a_fuser_that_fails_passes_rgb_through_with_the_reason_and_is_built_again(hasty, error):
    told = []
    pool = FuserPool(Failing(error, count=2), "cpu", told.append)
    reasons = until_fused(pool)
    assert str(error) in reasons[0] and any("built again" in reason for reason in reasons)
    assert len(told) == 2 and "Traceback" in told[0] and not pool.error


def test_where_the_device_stays_broken_the_cpu_takes_over(hasty):
    build = Failing(RuntimeError("CUDA error"), count=1, build_errors=1)
    pool = FuserPool(build, "cuda", lambda _: None)
    until_fused(pool)
    assert build.devices == ["cuda", "cuda", "cpu"]


def test_the_delay_doubles_while_failures_follow_each_other(hasty):
    pool = FuserPool(Failing(MemoryError(), count=4), "cpu", lambda _: None)
    until_fused(pool)
    assert pool._delay_s == pytest.approx(0.02 * 8)


def test_the_first_failure_to_build_is_raised():
    def broken(device):
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        FuserPool(broken, "cuda", lambda _: None)


def test_with_auto_a_gpu_that_fails_from_the_start_leaves_the_work_to_the_cpu():
    told, working = [], Failing(None, count=0)

    def build(device):
        if device == "auto":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return working(device)

    pool = FuserPool(build, "auto", told.append)
    assert answered(pool).mode is Mode.FUSED
    assert working.devices == ["cpu"] and len(told) == 1 and "no kernel image" in told[0]


def test_a_student_that_runs_on_the_cpu_instead_is_worth_a_warning():
    told, student = [], read_weights(DEFAULT_STUDENT)
    node.build_fusers({"": Settings(student=StudentSettings(device="auto"))}, student, told.append, "cpu")
    node.build_fusers({"": Settings(student=StudentSettings(device="cpu"))}, student, told.append, "cpu")
    assert len(told) == 1 and "runs on the cpu instead" in told[0]


def test_nothing_is_built_after_close(hasty):
    build = Failing(MemoryError(), count=1)
    pool = FuserPool(build, "cpu", lambda _: None)
    answered(pool)
    pool.close()
    time.sleep(0.2)
    assert len(build.devices) <= 2 and not pool._fusers
    assert answered(pool).mode is Mode.PASSTHROUGH


def test_without_thermal_or_registration_the_fuser_is_not_asked():
    pool = FuserPool(Failing(MemoryError(), count=1), "cpu", lambda _: None)
    without = Pair(a_pair().rgb, None, Mode.PASSTHROUGH, "no thermal frame received")
    assert answered(pool, pair=without).reason == "no thermal frame received"

    def waiting(_):
        raise NotFusedError("waiting for rgb/camera_info")

    fused = Answers(waiting, partial(pool.lend, "")).answer(a_pair()).fused
    assert fused.reason == "waiting for rgb/camera_info" and not pool.error


def test_images_that_do_not_fit_are_the_frames_fault_and_not_the_fusers():
    pool = FuserPool(Failing(MemoryError(), count=0), "cpu", lambda _: None)
    colour = Pair(a_pair().rgb, Frame(1, "", np.zeros((4, 4, 3), np.uint8), ""), Mode.FUSED)
    assert "publish one channel" in answered(pool, pair=colour).reason
    assert answered(pool).mode is Mode.FUSED and not pool.error


def test_what_fails_for_one_camera_is_built_again_for_all_since_they_share_it(hasty):
    build = Failing(MemoryError("no memory"), count=1)
    healthy = Failing(None, count=0)
    pool = FuserPool(lambda device: build(device) | {"rear": healthy(device)[""]}, "cpu", lambda _: None)
    assert answered(pool, "rear").mode is Mode.FUSED
    assert "no memory" in answered(pool).reason
    assert answered(pool, "rear").mode is Mode.PASSTHROUGH
    until_fused(pool)
    assert answered(pool, "rear").mode is Mode.FUSED
