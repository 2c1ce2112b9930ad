"""Whatever a message holds, the core answers it or refuses it with a reason, and takes no more memory than it brings.

The background threads of the registration run in the foreground here: what they raise counts.
"""

import math
import resource
import sys
import time
import traceback
from array import array
from collections import Counter
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

from builtin_interfaces.msg import Time
from fuzzing import FLT_MAX, NS_PER_S, RGB_PX, THERMAL_PX, Fuzzer, with_announced_size
from std_msgs.msg import Header

from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.errors import NotFusedError, RegistrationError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.core.image_messages import MessageError
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.gain_control import Normaliser, to_uint8
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.camera_info import intrinsics
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pairing.settings import SyncSettings
from fusionproxy_ros.pipeline import live_registration
from fusionproxy_ros.pipeline.answers import Answers
from fusionproxy_ros.pipeline.drift_watch import DriftWatch
from fusionproxy_ros.pipeline.live_registration import LiveRegistration
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.ros.diagnostics import Health

MESSAGES = 6_000
SLOWEST_S = 5.0  # processor time of one message: far more than any needs
SPARE_BYTES = 1 << 30  # what all these messages together may add to the process's address space
LONGEST_REASON = 1000  # characters
INFO = {"rgb_info": "rgb", "thermal_info": "thermal"}


@pytest.fixture
def bounded_memory():
    """An allocation far beyond what the messages hold fails, rather than the machine."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def in_the_foreground(monkeypatch):
    monkeypatch.setattr(
        live_registration, "run_in_background", lambda work, *arguments, urgent=False: work(*arguments)
    )


def message(fields):
    """The fields as a message; only the header is a real one, since it goes into the status."""
    sec, nanosec = divmod(fields["stamp_ns"], NS_PER_S)
    others = {name: value for name, value in fields.items() if name not in ("stamp_ns", "frame_id", "roi")}
    if "roi" in fields:
        others["roi"] = SimpleNamespace(
            **dict(zip(("x_offset", "y_offset", "height", "width"), fields["roi"], strict=True))
        )
    header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=fields["frame_id"])
    return SimpleNamespace(header=header, **others)


class Core:
    """What the node does between its subscriptions and its publishers; collects what it must not do."""

    def __init__(self, mode, student):
        registration = RegistrationSettings(mode=mode, translation_m=(0.1, 0.0, 0.0))
        self.settings = Settings(registration=registration)
        self.sync = NearestSync(SyncSettings())
        self.rig = LiveRegistration(self.settings, ("/rgb/image_raw", "/thermal/image_raw"))
        self.watch = DriftWatch(self.rig)
        fuser = Fuser(student, GainSettings(), "cpu", 1)
        self.answers = Answers(
            self.rig.current, lambda: nullcontext(fuser), mode == "depth", self._unexpected
        )
        self.health = Health("/rgb/image_raw", "/thermal/image_raw")
        self.now_ns = 0
        self.modes = Counter()
        self.rgb = []  # frames that were accepted
        self.answered = []
        self.failures = Counter()
        self.slowest_s = 0.0

    def take(self, topic, msg):
        self.now_ns += 10_000_000
        start_s = time.process_time()
        try:
            self._take(topic, msg)
        except Exception as error:
            self._failed(error, msg)
        self.slowest_s = max(self.slowest_s, time.process_time() - start_s)

    def finish(self):
        self._answer(self.sync.reset(self.now_ns))

    @staticmethod
    def _check(reason):
        """A reason is one line that a log and a terminal can show."""
        assert reason and reason.isprintable() and len(reason) <= LONGEST_REASON, f"reason {reason[:200]!r}"

    def _failed(self, error, msg):
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "fusionproxy_ros" in f.filename][-1:]
        where = f"{(ours or [last])[0].filename.rsplit('/', 1)[-1]}:{(ours or [last])[0].lineno}"
        self.failures[f"{type(error).__name__} at {where}: {str(error).splitlines()[0][:120]}"] += 1

    def _take(self, topic, msg):
        if topic in INFO:
            self.rig.set_camera_info(INFO[topic], msg)
        elif topic == "rgb":
            self._take_rgb(msg)
        else:
            read = image_messages.read_thermal if topic == "thermal" else image_messages.read_depth
            try:
                frame = read(msg, self.now_ns)
            except MessageError as error:
                self._check(str(error))
                return
            self._answer(self.sync.add_thermal(frame) if topic == "thermal" else self.sync.add_depth(frame))

    def _take_rgb(self, msg):
        try:
            frame, reason = image_messages.take_rgb(msg, self.now_ns)
        except MessageError as error:
            self._check(str(error))
            self.health.unanswered(msg.header, Mode.REFUSED, str(error))
            self.modes["REFUSED"] += 1
            return
        if reason:
            self._check(reason)
        self.rgb.append(frame)
        self._answer(self.sync.add_rgb(frame, reason))

    def _answer(self, pairs):
        for pair in pairs or ():
            self.answered.append(pair.rgb)
            try:
                self._fuse(pair)
            except Exception as error:
                self._failed(error, pair.rgb.source)

    def _fuse(self, pair):
        answer = self.answers.answer(pair)
        fused = answer.fused
        if fused.reason or fused.mode is not Mode.FUSED:
            self._check(fused.reason)
        assert fused.pixels.shape == pair.rgb.pixels.shape and fused.pixels.dtype == pair.rgb.pixels.dtype
        self.watch.offer(answer, self.settings.drift)
        self.health.answered(answer, self.watch.estimate, self.now_ns, self.now_ns)
        self.modes[fused.mode.name] += 1

    def _unexpected(self):
        """What Answers passes through without being meant to: nothing may come here."""
        self._failed(sys.exc_info()[1], None)


@pytest.fixture(scope="module")
def student():
    return read_weights(DEFAULT_STUDENT)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are what is sent
@pytest.mark.parametrize(
    ("mode", "compressed", "count"),
    [
        pytest.param("depth", False, MESSAGES, marks=pytest.mark.slow),
        ("identity", True, MESSAGES // 2),
        ("extrinsic", False, MESSAGES // 2),
    ],
)
def test_thousands_of_mutated_messages_are_answered_or_refused_with_a_reason(
    mode, compressed, count, student, in_the_foreground, bounded_memory
):
    core, fuzzer = Core(mode, student), Fuzzer(seed=count, compressed=compressed)
    for _ in range(count):
        topic, fields = next(fuzzer)
        core.take(topic, message(fields))
    core.finish()
    assert not core.failures, "\n" + "\n".join(f"{n} x {what}" for what, n in core.failures.most_common())
    assert core.answered == core.rgb
    assert core.slowest_s < SLOWEST_S
    assert min(core.modes[mode] for mode in ("FUSED", "HELD", "PASSTHROUGH", "REFUSED")) > 10, core.modes


# --- what the fuzzer has found, one by one


def picture(pixels, encoding, sec=1):
    """A sound Image."""
    return message(
        {
            **{"height": pixels.shape[0], "width": pixels.shape[1], "encoding": encoding, "is_bigendian": 0},
            **{"step": pixels.strides[0], "data": array("B", pixels.tobytes())},
            **{"stamp_ns": sec * NS_PER_S, "frame_id": "camera"},
        }
    )


def compressed(pixels, suffix, text, announced_px=None):
    """A CompressedImage, whose header may announce another size."""
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    if announced_px:
        data = with_announced_size(data, *announced_px)
    return message({"format": text, "data": array("B", data), "stamp_ns": NS_PER_S, "frame_id": "camera"})


def camera(size_px, **changes):
    """Intrinsics of a sound camera with a focal length of 40 px."""
    k = np.array([[40.0, 0.0, size_px[0] / 2], [0.0, 40.0, size_px[1] / 2], [0.0, 0.0, 1.0]])
    return Camera(**{"width_px": size_px[0], "height_px": size_px[1], "k": k} | changes)


def info(size_px, **changes):
    """The CameraInfo of `camera`."""
    k = camera(size_px).k.ravel().tolist()
    fields = {
        "width": size_px[0],
        "height": size_px[1],
        "k": k,
        "p": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
    }
    fields |= {"distortion_model": "plumb_bob", "d": [], "binning_x": 0, "binning_y": 0, "roi": (0, 0, 0, 0)}
    return message(fields | {"stamp_ns": 0, "frame_id": ""} | changes)


def fitting_pair():
    rgb = Frame(1, "rgb", np.zeros((*RGB_PX[::-1], 3), np.uint8), "rgb8")
    return Pair(rgb, Frame(1, "thermal", np.zeros(THERMAL_PX[::-1], np.uint8), "mono8"), Mode.FUSED)


@pytest.mark.parametrize("size_px", [(40_000, 2), (2, 32_767)])
def test_an_image_longer_than_opencv_resamples_is_refused(size_px):
    long, short = np.zeros(size_px[::-1], np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(RegistrationError):
        registration.identity().register(long, (4, 4))
    with pytest.raises(RegistrationError):
        registration.identity().register(short, size_px)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_compressed_image_is_refused_before_the_memory_that_it_announces_is_taken(suffix, bounded_memory):
    msg = compressed(np.zeros((64, 64, 3), np.uint8), suffix, "jpeg", announced_px=(12_000, 12_000))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MessageError):
        image_messages.read_rgb(msg)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024
    )  # it announces 412 MiB


def test_thermal_that_only_says_it_is_png_is_refused_as_lossy():
    with pytest.raises(MessageError):
        image_messages.read_thermal(
            compressed(np.zeros((64, 64), np.uint8), ".jpg", "mono16; png compressed")
        )


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".pgm"])
def test_only_png_and_jpeg_reach_a_decoder(suffix):
    """Every other decoder of OpenCV's is a door that no camera needs."""
    with pytest.raises(MessageError):
        image_messages.read_rgb(compressed(np.zeros((64, 64), np.uint8), suffix, "jpeg"))


@pytest.mark.parametrize(
    "changes",
    [
        {"k": np.array([[40.0, 1e9, 20.0], [0.0, 40.0, 15.0], [0.0, 0.0, 1.0]])},
        {"k": np.array([[1e-310, 0.0, 20.0], [0.0, 1e-310, 15.0], [0.0, 0.0, 1.0]])},
        {"k": np.array([[1e300, 0.0, 20.0], [0.0, 1e300, 15.0], [0.0, 0.0, 1.0]])},
        # A tele lens, 20000 px, whose distortion model ends inside the image.
        {
            "k": np.array([[20_000.0, 0.0, 320.0], [0.0, 20_000.0, 240.0], [0.0, 0.0, 1.0]]),
            "d": np.array([-2000.0, 0.0, 0.0, 0.0, 0.0]),
            **{"width_px": 640, "height_px": 480},
        },
    ],
    ids=["skew", "tiny", "huge", "tele"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_registration_by_depth_takes_no_memory_for_a_field_of_view_that_no_camera_has(
    changes, bounded_memory
):
    thermal = camera(THERMAL_PX, **changes)
    calibration = Calibration(camera(RGB_PX), thermal, np.eye(3), np.array([0.1, 0.0, 0.0]))
    start_s = time.process_time()
    try:
        by_depth(calibration, 20.0).prepare((thermal.width_px, thermal.height_px), RGB_PX)
    except RegistrationError as error:
        assert str(error)
    assert time.process_time() - start_s < SLOWEST_S


def test_a_focal_length_of_nearly_zero_is_refused():
    k = np.array([[5e-324, 0.0, 24.0], [0.0, 5e-324, 18.0], [0.0, 0.0, 1.0]])
    calibration = Calibration(camera(RGB_PX, k=k), camera(THERMAL_PX), np.eye(3), np.array([0.1, 0.0, 0.0]))
    for make in (by_depth, registration.extrinsic):
        with pytest.raises(RegistrationError):
            make(calibration, 20.0).prepare(THERMAL_PX, (24, 18))


def test_a_camera_info_that_says_the_same_not_a_number_again_changes_nothing():
    """The grid would be built anew for each, and never be ready."""
    first, second = (info(RGB_PX, p=array("d", [math.nan] * 12)) for _ in range(2))
    assert intrinsics(first) == intrinsics(second)


def test_intrinsics_that_change_faster_than_grids_are_built_do_not_keep_thermal_out(monkeypatch):
    """An autofocus lens: a new K with every frame."""
    build = registration.Registration.prepare

    def slow(*arguments):
        time.sleep(0.2)
        build(*arguments)

    monkeypatch.setattr(registration.Registration, "prepare", slow)
    extrinsic = Settings(registration=RegistrationSettings(mode="extrinsic"))
    followed = LiveRegistration(extrinsic, ("/rgb/image_raw", "/thermal/image_raw"))
    followed.set_camera_info("thermal", info(THERMAL_PX))
    for step in range(1500):  # far more than are needed where nothing else runs
        k = info(RGB_PX).k
        followed.set_camera_info("rgb", info(RGB_PX, k=[k[0] + 0.01 * (step % 60), *k[1:]]))
        with suppress(NotFusedError):
            followed.current(fitting_pair())
            break
        time.sleep(0.02)
    assert not followed.problem


def test_a_grid_that_cannot_be_built_for_an_unforeseen_reason_says_so(monkeypatch, in_the_foreground):
    """The thread that builds it must not die in silence, with frames being told for ever that it is being built."""

    def broken():
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(registration, "identity", broken)
    with pytest.raises(NotFusedError, match="unforeseen"):
        LiveRegistration(Settings(), ("/rgb/image_raw", "/thermal/image_raw")).current(fitting_pair())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_largest_float_marks_pixels_without_a_temperature_and_does_not_stretch_the_range():
    scene = np.linspace(290, 310, 40 * 30, dtype=np.float32).reshape(30, 40)
    marked = scene.copy()
    marked[:5], marked[5:10] = FLT_MAX, -FLT_MAX
    normaliser = Normaliser(GainSettings())
    nothing = np.full_like(scene, FLT_MAX)
    assert not to_uint8(nothing, *normaliser.follow(nothing, None, NS_PER_S, 0)).any()
    low, high = normaliser.follow(marked, None, 2 * NS_PER_S, 0)
    assert 285 < low < high < 315


@pytest.mark.parametrize(
    "encoding", ["x" * 10_000, "rgb8\n[ERROR] forged", "\x1b[2J"], ids=["long", "line", "escape"]
)
def test_a_reason_quotes_what_a_message_says_in_one_short_printable_line(encoding):
    msg = picture(np.zeros((4, 4, 3), np.uint8), encoding)
    for read in (image_messages.read_rgb, image_messages.read_thermal, image_messages.read_depth):
        with pytest.raises(MessageError) as refused:
            read(msg)
        Core._check(str(refused.value))
    lens = camera(RGB_PX, distortion_model=encoding, d=np.ones(5))
    with pytest.raises(RegistrationError) as refused:
        registration.extrinsic(Calibration(lens, camera(THERMAL_PX), np.eye(3), np.zeros(3)), 20.0)
    Core._check(str(refused.value))


def test_a_camera_that_sees_nothing_of_what_the_other_sees_is_not_called_fused(student):
    calibration = Calibration(
        camera(RGB_PX), camera(THERMAL_PX), np.diag([-1.0, 1.0, -1.0]), np.array([0.1, 0.0, 0.0])
    )  # it looks backwards
    with pytest.raises(NotFusedError, match="sees nothing of the RGB picture"):
        Fuser(student, GainSettings(), "cpu", 1).fuse(
            fitting_pair(), registration.extrinsic(calibration, 20.0)
        )
