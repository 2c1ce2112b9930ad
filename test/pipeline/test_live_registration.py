"""The live registration follows whatever says where the cameras are, never blocks frames, and says what is missing."""

import dataclasses
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

from camera_models import RGB_PX, THERMAL_PX, rotation_matrix, simple_calibration, street

from fusionproxy_ros.alignment.settings import DriftSettings
from fusionproxy_ros.core.errors import NotFusedError, RegistrationError
from fusionproxy_ros.core.frames import Frame, Fused, Mode, Pair
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pairing.settings import SyncSettings
from fusionproxy_ros.pipeline.answers import Answer
from fusionproxy_ros.pipeline.drift_watch import DriftWatch
from fusionproxy_ros.pipeline.live_registration import CurrentRegistration, LiveRegistration
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.pipeline.worker import FIRST_SHARE, STALL_SHARE

TOPICS = "/rgb/image_raw", "/thermal/image_raw"
EXTRINSIC = Settings(registration=RegistrationSettings(mode="extrinsic", translation_m=(0.1, 0.0, 0.0)))
PATIENT = replace(EXTRINSIC, sync=SyncSettings(max_latency_s=10.0))  # on a busy machine too


def extrinsic(**changes):
    return replace(EXTRINSIC, registration=replace(EXTRINSIC.registration, **changes))


def pair(rgb_px=RGB_PX, thermal_px=THERMAL_PX, stamp_ns=1):
    rgb = Frame(stamp_ns, "rgb_optical", np.zeros((*rgb_px[::-1], 3), np.uint8), "rgb8")
    thermal = Frame(stamp_ns, "thermal_optical", np.zeros(thermal_px[::-1], np.uint8), "mono8")
    return Pair(rgb, thermal, Mode.FUSED)


def info(camera, **changes):
    """A sensor_msgs/CameraInfo of `camera`."""
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = {"width": camera.width_px, "height": camera.height_px, "k": camera.k.ravel(), "d": camera.d}
    fields |= {"p": np.hstack([camera.k, np.zeros((3, 1))]).ravel(), "distortion_model": "plumb_bob"}
    return SimpleNamespace(**fields | {"roi": roi, "binning_x": 0, "binning_y": 0} | changes)


def introduce(rig, calibration=None):
    calibration = calibration or simple_calibration()
    rig.set_camera_info("rgb", info(calibration.rgb))
    rig.set_camera_info("thermal", info(calibration.thermal))


def view_of(rig, of=None):
    """registration and parallax_error_px for a pair, or the problem in their place."""
    try:
        current = rig.current(of or pair())
    except NotFusedError as error:
        return SimpleNamespace(registration=None, problem=str(error))
    return SimpleNamespace(**vars(current), problem="")


def settled(rig, of=None, until=lambda view: view.registration or view.problem):
    """What it answers once its background thread is done."""
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        view = view_of(rig, of)
        if until(view) and "being built" not in view.problem:
            return view
        time.sleep(0.005)
    raise AssertionError(f"still {view}")


def same(view, expected, of=None):
    of = of or pair()
    ramp = np.arange(of.thermal.pixels.size, dtype=np.float32).reshape(of.thermal.pixels.shape)
    a, b = (r.register(ramp, of.rgb.size_px).pixels for r in (view.registration, expected))
    return np.array_equal(a, b)


@pytest.mark.parametrize("mode", ["identity", "homography", "extrinsic"])
def test_the_first_frame_waits_a_moment_for_its_grid(mode):
    rig = LiveRegistration(replace(PATIENT, registration=RegistrationSettings(mode=mode)), TOPICS)
    introduce(rig)
    assert view_of(rig).registration


def test_the_first_frame_with_a_calibration_waits_a_moment_for_its_grid():
    rig = LiveRegistration(PATIENT, TOPICS)
    assert view_of(rig).problem.startswith("waiting for rgb/camera_info")
    introduce(rig)
    assert view_of(rig).registration


@pytest.mark.parametrize("share", [FIRST_SHARE, STALL_SHARE])
def test_no_frame_waits_for_its_grid_until_the_worker_takes_that_for_a_stall(monkeypatch, share):
    rig = LiveRegistration(replace(EXTRINSIC, sync=SyncSettings(max_latency_s=2.0)), TOPICS)
    if share == STALL_SHARE:
        settled(rig)  # frames were answered before, without a calibration
    introduce(rig)
    waits_s = []
    built = SimpleNamespace(wait=waits_s.append)  # and is never there
    monkeypatch.setattr(rig, "_request", lambda _: built)
    assert view_of(rig).registration is None
    assert len(waits_s) == 1 and 0.7 * 2.0 / share < waits_s[0] < 2.0 / share


def test_frames_are_told_what_extrinsic_registration_waits_for():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    assert settled(rig).problem.startswith("waiting for rgb/camera_info: publish it")
    rig.set_camera_info("rgb", info(simple_calibration().rgb))
    assert settled(rig, until=lambda v: "thermal" in v.problem).problem.startswith("waiting for thermal/")
    rig.set_camera_info("thermal", info(simple_calibration().thermal))
    view = settled(rig, until=lambda v: v.registration)
    assert same(view, registration.extrinsic(simple_calibration(), 20.0))
    assert view.parallax_error_px == pytest.approx(0.8 * 320 * 0.1 * (1 / 3 - 1 / 20))


def test_a_new_calibration_is_followed_and_the_old_one_serves_until_it_is_ready():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    old = settled(rig, until=lambda v: v.registration)
    changed = simple_calibration()
    changed.thermal.k[0, 2] += 10
    rig.set_camera_info("thermal", info(changed.thermal))
    while (view := view_of(rig)).registration is old.registration:
        time.sleep(0.001)
    assert same(view, registration.extrinsic(changed, 20.0))


def test_a_camera_info_that_says_the_same_changes_nothing():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    view = settled(rig, until=lambda v: v.registration)
    introduce(rig)
    time.sleep(0.1)
    assert view_of(rig).registration is view.registration


def test_a_new_image_size_passes_through_until_its_grid_is_built():
    rig, half = LiveRegistration(EXTRINSIC, TOPICS), pair((160, 120), (80, 64))
    introduce(rig)
    settled(rig, until=lambda v: v.registration)
    view = settled(rig, half, until=lambda v: v.registration)
    assert same(view, registration.extrinsic(simple_calibration(), 20.0), half)
    assert "320x240" in settled(rig, pair((320, 100))).problem  # no scaled version of what was calibrated


def test_a_region_of_interest_and_binning_are_followed():
    calibration, rig = simple_calibration(), LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    full = settled(rig, until=lambda v: v.registration).registration
    roi = SimpleNamespace(x_offset=40, y_offset=20, width=240, height=200)
    rig.set_camera_info("rgb", info(calibration.rgb, roi=roi, binning_x=2, binning_y=2))
    part_pair = pair((120, 100))
    part = settled(rig, part_pair, until=lambda v: v.registration).registration
    ramp = np.tile(np.arange(THERMAL_PX[0], dtype=np.float32) * 64, (THERMAL_PX[1], 1))
    of_full, of_part = (
        r.register(ramp, size).pixels / 64 for r, size in ((full, RGB_PX), (part, (120, 100)))
    )
    between = (of_full[20:220:2, 40:280:2] + of_full[20:220:2, 41:280:2]) / 2
    assert np.abs(of_part - between)[:, 5:-5].max() < 0.05


def test_a_calibration_file_needs_no_camera_info(tmp_path):
    calibration = replace(simple_calibration(), rotation=rotation_matrix(0.01, 0.02, 0.03))
    save_calibration(calibration, tmp_path / "calibration.yaml")
    settings = Settings(
        registration=RegistrationSettings(
            mode="extrinsic", calibration_file=str(tmp_path / "calibration.yaml")
        )
    )
    view = settled(LiveRegistration(settings, TOPICS))
    assert same(view, registration.extrinsic(calibration, 20.0))


def test_a_homography_comes_from_the_file_where_one_is_given(tmp_path):
    (tmp_path / "h.yaml").write_text("homography: [2, 0, 5, 0, 2, -3, 0, 0, 1]")
    settings = Settings(
        registration=RegistrationSettings(mode="homography", calibration_file=str(tmp_path / "h.yaml"))
    )
    view = settled(LiveRegistration(settings, TOPICS))
    assert same(view, registration.homography(np.array([[2.0, 0, 5], [0, 2, -3], [0, 0, 1]])))


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (extrinsic(rotation=(1.0, 0, 0, 0, 1.1, 0, 0, 0, 1)), "rotation is not orthonormal"),
        (extrinsic(calibration_file="absent.yaml"), "absent.yaml cannot be read"),
        (
            Settings(registration=RegistrationSettings(mode="homography", homography=(0.0,) * 9)),
            "homography is singular",
        ),
    ],
)
def test_what_is_wrong_with_a_calibration_is_told_to_every_frame(settings, cause):
    rig = LiveRegistration(settings, TOPICS)
    introduce(rig)
    view = settled(rig, until=lambda v: cause in v.problem)
    assert view.registration is None and cause in rig.problem


def test_an_uncalibrated_camera_info_is_named():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    rig.set_camera_info("thermal", info(simple_calibration().thermal, k=np.zeros(9)))
    assert "thermal/camera_info has K[0]==0" in settled(rig, until=lambda v: v.problem).problem


class Transforms:
    """Stands for tf2: what `lookup` returns or raises is set from outside."""

    answer = RegistrationError("TF knows neither rgb_optical nor thermal_optical yet")

    def lookup(self, rgb_frame, thermal_frame):
        assert (rgb_frame, thermal_frame) == ("rgb_optical", "thermal_optical")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_transforms_are_waited_for_followed_and_kept_when_they_stop():
    transforms = Transforms()
    rig = LiveRegistration(extrinsic(extrinsics_source="tf"), TOPICS, transforms.lookup)
    introduce(rig)
    assert "waiting for TF" in settled(rig).problem
    rig.follow_transforms()
    assert "TF knows neither" in settled(rig, until=lambda v: "knows" in v.problem).problem
    for angle in (0.0, 0.05):
        transforms.answer = rotation_matrix(0, angle, 0), np.array([0.1, 0.0, 0.0])
        rig.follow_transforms()
        expected = registration.extrinsic(
            replace(simple_calibration(), rotation=rotation_matrix(0, angle, 0)), 20.0
        )
        settled(rig, until=lambda v, e=expected: v.registration and same(v, e))
    view = view_of(rig)
    transforms.answer = RegistrationError("gone")
    rig.follow_transforms()
    transforms.answer = rotation_matrix(0, 0.05 + 1e-5, 0), np.array([0.1, 0.0, 0.0])
    rig.follow_transforms()
    time.sleep(0.1)
    assert view_of(rig).registration is view.registration


def test_a_correction_shifts_the_registration_until_the_calibration_changes_or_it_is_turned_off():
    settings = replace(EXTRINSIC, drift=DriftSettings(refine_max_px=10.0))
    rig = LiveRegistration(settings, TOPICS)
    introduce(rig)
    settled(rig, until=lambda v: v.registration)

    def correct():
        rig.set_shift((3.0, -2.0))
        view = settled(rig, until=lambda v: v.registration and v.registration.shift_px == (3.0, -2.0))
        assert same(view, registration.extrinsic(simple_calibration(), 20.0).shifted((3.0, -2.0)))

    def uncorrected():
        settled(rig, until=lambda v: v.registration and v.registration.shift_px == (0.0, 0.0))

    correct()
    rig.set_settings(replace(settings, drift=DriftSettings()))
    uncorrected()
    rig.set_settings(settings)
    correct()
    changed = simple_calibration()
    changed.thermal.k[0, 2] += 10
    rig.set_camera_info("thermal", info(changed.thermal))
    uncorrected()


# --- the watch


def stream(rig, watch, settings, shift_px, seconds, start_s=0.0, hz=10):
    """Offer pairs whose thermal lies off by `shift_px`, registered as the rig says."""
    luma, thermal = street((640, 480), shift_px)
    rgb = np.dstack([luma] * 3)
    for index in range(round(seconds * hz)):
        stamp_ns = round((start_s + (index + 1) / hz) * 1e9)
        p = Pair(Frame(stamp_ns, "", rgb, "rgb8"), Frame(stamp_ns, "", thermal, "mono8"), Mode.FUSED)
        view = settled(rig, p)
        registered = view.registration.register(thermal, (640, 480))
        fused = Fused(rgb, mode=Mode.FUSED, thermal=registered.pixels, mask=registered.mask)
        watch.offer(Answer(p, fused, CurrentRegistration(view.registration)), settings.drift)
        while watch._busy:
            time.sleep(0.001)


@pytest.mark.slow
def test_a_drift_of_5_px_in_the_stream_is_reported_within_10_s_and_corrected_only_where_asked():
    settings = Settings()
    rig = LiveRegistration(settings, TOPICS)
    watch = DriftWatch(rig)
    stream(rig, watch, settings, (0, 0), 6)
    assert watch.estimate and watch.estimate.size_px < 1
    stream(rig, watch, settings, (4, -3), 10, start_s=6)
    assert np.hypot(*np.subtract(watch.estimate.shift_px, (4, -3))) < 2
    assert rig.shift_px == (0.0, 0.0)
    settings = replace(settings, drift=DriftSettings(refine_max_px=8.0))
    rig.set_settings(settings)
    stream(rig, watch, settings, (4, -3), 20, start_s=16)
    assert np.hypot(*np.subtract(rig.shift_px, (4, -3))) < 2 and watch.estimate.size_px < 2


@pytest.mark.slow
def test_darkness_and_old_estimates_are_no_estimate_and_tiny_images_are_left_alone():
    rig = LiveRegistration(Settings(), TOPICS)
    watch = DriftWatch(rig)
    stream(rig, watch, Settings(), (0, 0), 6)
    assert watch.estimate
    later = pair(stamp_ns=round(20e9))
    watch.offer(Answer(later, Fused(later.rgb.pixels, mode=Mode.HELD)), DriftSettings())
    assert watch.estimate is None
    tiny = pair((40, 30), (40, 30), stamp_ns=round(30e9))
    fused = Fused(tiny.rgb.pixels, mode=Mode.FUSED, thermal=tiny.thermal.pixels)
    current = CurrentRegistration(settled(rig, tiny).registration)
    watch.offer(Answer(tiny, fused, current), DriftSettings())
    while watch._busy:
        time.sleep(0.001)
    assert watch.estimate is None


def test_a_camera_that_alternates_between_two_sizes_is_served_in_both():
    rig, half = LiveRegistration(EXTRINSIC, TOPICS), pair((160, 120), (80, 64))
    introduce(rig)
    end_s = time.monotonic() + 10
    while not (view_of(rig).registration and view_of(rig, half).registration):
        assert time.monotonic() < end_s
    views = view_of(rig), view_of(rig, half)
    assert (view_of(rig), view_of(rig, half)) == views


def test_sizes_that_change_without_end_do_not_fill_the_memory():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    for width in range(32, 64, 2):
        settled(rig, pair((width, width * 3 // 4), (width // 2, width * 2 // 5)))
    assert len(rig._built) <= 5 and len(rig._serving) <= 4


def test_the_watch_rests_when_its_warning_is_turned_off():
    settings = Settings(drift=DriftSettings(warn_px=0.0))
    rig = LiveRegistration(settings, TOPICS)
    watch = DriftWatch(rig)
    stream(rig, watch, settings, (0, 0), 6)
    assert watch.estimate is None


def test_a_calibration_that_returns_and_a_parameter_that_does_not_matter_need_no_new_grid():
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    introduce(rig)
    good = settled(rig, until=lambda v: v.registration)
    rig.set_camera_info("thermal", info(simple_calibration().thermal, k=np.zeros(9)))
    settled(rig, until=lambda v: v.problem)
    rig.set_camera_info("thermal", info(simple_calibration().thermal))
    assert view_of(rig).registration is good.registration
    rig.set_settings(
        replace(EXTRINSIC, sync=SyncSettings(tolerance_s=0.01), drift=DriftSettings(warn_px=9.0))
    )
    assert view_of(rig).registration is good.registration


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(RegistrationSettings)])
def test_every_setting_of_the_registration_asks_for_another_one(field):
    """So that no parameter can be added that has no effect."""
    rig = LiveRegistration(EXTRINSIC, TOPICS)
    before = rig._known.key
    default = getattr(EXTRINSIC.registration, field)
    other = {
        bool: True,
        float: 7.0,
        str: "homography",
        tuple: (2.0,) * 9,
    }
    rig.set_settings(extrinsic(**{field: other[type(default)]}))
    assert rig._known.key != before
