"""Whatever the fuser does, the RGB frame is answered, and the fuser comes back."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

import torch

from fusionproxy_ros import guard, node
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.frames import Frame, Mode, Pair
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.guard import Guard
from fusionproxy_ros.normalisation import NormalisationConfig
from fusionproxy_ros.parameters import Parameters
from fusionproxy_ros.registration import identity
from fusionproxy_ros.rig import View

VIEW = View(identity())


def pair():
    rng = np.random.default_rng(0)
    rgb, thermal = rng.integers(0, 255, (48, 64, 3), np.uint8), rng.integers(0, 255, (48, 64), np.uint8)
    return Pair(Frame(1, "", rgb, "rgb8"), Frame(1, "", thermal, "mono8"), Mode.FUSED)


class Hanging:
    """In place of a fuser's `fuse`: calls `fuse` once `go_on` is set; raises `error` instead, if there is one."""

    def __init__(self, fuse, error=None):
        self.fuse, self.error, self.begun, self.go_on = fuse, error, threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.begun.set()
        self.go_on.wait(10)
        if self.error:
            raise self.error
        return self.fuse(*arguments)


def hang(guarded, name="", error=None):
    """Fuse with the cameras `name` in a thread that hangs: the thread, its answers, and what hangs."""
    hanging, answers = Hanging(guarded._fusers[name].fuse, error), []
    guarded._fusers[name].fuse = hanging
    behind = threading.Thread(target=lambda: answers.append(guarded.fuse(name, pair(), VIEW)))
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
        fuser = Fuser(read_weights(DEFAULT_STUDENT), NormalisationConfig(), "cpu")
        if self.left:
            self.left -= 1

            def fail(*_):
                raise self.error

            fuser.finish = fail
        return {"": fuser}


def test_a_fuser_that_hangs_in_a_thread_that_was_left_behind_is_not_used_by_another():
    owner = guard.Guard(Failing(None, 0), "cpu", print)
    behind, answers, hanging = hang(owner)
    fused = owner.fuse("", pair(), VIEW)
    assert fused.mode is Mode.PASSTHROUGH and "hangs" in fused.reason
    hanging.go_on.set()
    behind.join()
    assert answers[0].mode is owner.fuse("", pair(), VIEW).mode is Mode.FUSED


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(guard, "FIRST_DELAY_S", 0.02)


def until_fused(guarded):
    reasons = []
    end_s = time.monotonic() + 10
    while (fused := guarded.fuse("", pair(), VIEW)).mode is not Mode.FUSED:
        reasons.append(fused.reason)
        assert fused.mode is Mode.PASSTHROUGH and time.monotonic() < end_s
        time.sleep(0.005)
    return reasons


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: the launch timed out")])
def test_a_fuser_that_hangs_for_good_is_built_again_on_the_cpu_whatever_it_does_one_day(hasty, error):
    build = Failing(None, 0)
    guarded = Guard(build, "auto", lambda _: None)
    behind, _, hanging = hang(guarded, error=error)
    guarded.abandon("")
    assert "hangs for good" in guarded.error
    until_fused(guarded)
    assert build.devices == ["auto", "cpu"] and not guarded.error
    hanging.go_on.set()
    behind.join()
    assert guarded.fuse("", pair(), VIEW).mode is Mode.FUSED and build.devices == ["auto", "cpu"]


def two_pairs():
    front, rear = Failing(None, 0), Failing(None, 0)
    return front, lambda device: front(device) | {"rear": rear(device)[""]}


def test_while_one_pair_s_fuser_hangs_the_other_s_goes_on():
    guarded = Guard(two_pairs()[1], "cpu", print)
    behind, answers, hanging = hang(guarded, "rear")
    assert guarded.fuse("", pair(), VIEW).mode is Mode.FUSED
    hanging.go_on.set()
    behind.join()
    assert answers[0].mode is Mode.FUSED


def test_a_device_that_hangs_under_two_pairs_is_left_for_the_cpu_once(hasty):
    front, build = two_pairs()
    guarded = Guard(build, "auto", lambda _: None)
    threads = [hang(guarded, name) for name in ("", "rear")]
    for name in ("", "rear"):
        guarded.abandon(name)
    until_fused(guarded)
    assert guarded.fuse("rear", pair(), VIEW).mode is Mode.FUSED
    for behind, _, hanging in threads:
        hanging.go_on.set()
        behind.join()
    time.sleep(0.1)
    assert front.devices == ["auto", "cpu"] and guarded.fuse("", pair(), VIEW).mode is Mode.FUSED


def test_two_pairs_that_fail_at_once_are_built_anew_once(hasty):
    front, build = two_pairs()
    guarded = Guard(build, "cpu", lambda _: None)
    threads = [hang(guarded, name, RuntimeError("CUDA error")) for name in ("", "rear")]
    for behind, answers, hanging in threads:
        hanging.go_on.set()
        behind.join()
        assert answers[0].mode is Mode.PASSTHROUGH and "CUDA error" in answers[0].reason
    until_fused(guarded)
    time.sleep(0.1)
    assert front.devices == ["cpu", "cpu"]


@pytest.mark.parametrize(
    "error",
    [MemoryError("no memory"), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error")],
)
def test_a_fuser_that_fails_passes_rgb_through_with_the_reason_and_is_built_again(hasty, error):
    told = []
    guarded = Guard(Failing(error, count=2), "cpu", told.append)
    reasons = until_fused(guarded)
    assert str(error) in reasons[0] and any("built again" in reason for reason in reasons)
    assert len(told) == 2 and "Traceback" in told[0] and not guarded.error


def test_where_the_device_stays_broken_the_cpu_takes_over(hasty):
    build = Failing(RuntimeError("CUDA error"), count=1, build_errors=1)
    guarded = Guard(build, "cuda", lambda _: None)
    until_fused(guarded)
    assert build.devices == ["cuda", "cuda", "cpu"]


def test_the_delay_doubles_while_failures_follow_each_other(hasty):
    guarded = Guard(Failing(MemoryError(), count=4), "cpu", lambda _: None)
    until_fused(guarded)
    assert guarded._delay_s == pytest.approx(0.02 * 8)


def test_the_first_failure_to_build_is_raised():
    def broken(device):
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        Guard(broken, "cuda", lambda _: None)


def test_with_auto_a_gpu_that_fails_from_the_start_leaves_the_work_to_the_cpu():
    told, working = [], Failing(None, count=0)

    def build(device):
        if device == "auto":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return working(device)

    guarded = Guard(build, "auto", told.append)
    assert guarded.fuse("", pair(), VIEW).mode is Mode.FUSED
    assert working.devices == ["cpu"] and len(told) == 1 and "no kernel image" in told[0]


def test_a_student_that_runs_on_the_cpu_instead_is_worth_a_warning():
    told, student = [], read_weights(DEFAULT_STUDENT)
    node._build_fusers({"": Parameters(device="auto")}, student, told.append, "cpu")
    node._build_fusers({"": Parameters(device="cpu")}, student, told.append, "cpu")
    assert len(told) == 1 and "runs on the cpu instead" in told[0]


def test_nothing_is_built_after_close(hasty):
    build = Failing(MemoryError(), count=1)
    guarded = Guard(build, "cpu", lambda _: None)
    guarded.fuse("", pair(), VIEW)
    guarded.close()
    time.sleep(0.2)
    assert len(build.devices) <= 2 and not guarded._fusers
    assert guarded.fuse("", pair(), VIEW).mode is Mode.PASSTHROUGH


def test_without_thermal_or_registration_the_fuser_is_not_asked():
    guarded = Guard(Failing(MemoryError(), count=1), "cpu", lambda _: None)
    without = Pair(pair().rgb, None, Mode.PASSTHROUGH, "no thermal frame received")
    assert guarded.fuse("", without, None).reason == "no thermal frame received"
    waiting = View(None, "waiting for rgb/camera_info")
    assert guarded.fuse("", pair(), waiting).reason == "waiting for rgb/camera_info"
    assert not guarded.error


def test_images_that_do_not_fit_are_the_frames_fault_and_not_the_fusers():
    guarded = Guard(Failing(MemoryError(), count=0), "cpu", lambda _: None)
    colour = Pair(pair().rgb, Frame(1, "", np.zeros((4, 4, 3), np.uint8), ""), Mode.FUSED)
    assert "publish one channel" in guarded.fuse("", colour, VIEW).reason
    assert guarded.fuse("", pair(), VIEW).mode is Mode.FUSED and threading.active_count() < 50


def test_what_fails_for_one_camera_is_built_again_for_all_since_they_share_it(hasty):
    build = Failing(MemoryError("no memory"), count=1)
    healthy = Failing(None, count=0)
    guarded = Guard(lambda device: build(device) | {"rear": healthy(device)[""]}, "cpu", lambda _: None)
    assert guarded.fuse("rear", pair(), VIEW).mode is Mode.FUSED
    assert "no memory" in guarded.fuse("", pair(), VIEW).reason
    assert guarded.fuse("rear", pair(), VIEW).mode is Mode.PASSTHROUGH
    until_fused(guarded)
    assert guarded.fuse("rear", pair(), VIEW).mode is Mode.FUSED
