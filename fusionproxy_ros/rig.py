"""What the node knows of where its cameras are, followed while it runs: a Registration for the frames of now."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import cv2
import numpy as np

from fusionproxy_ros import messages, registration
from fusionproxy_ros.calibration import load_calibration, load_homography
from fusionproxy_ros.frames import (
    NS_PER_S,
    Calibration,
    Fused,
    FusionError,
    Mode,
    Pair,
    RegistrationError,
    shown,
)
from fusionproxy_ros.fuser import luma_of
from fusionproxy_ros.lens import Size
from fusionproxy_ros.misalignment import Misalignment, MisalignmentMonitor, refine
from fusionproxy_ros.parameters import Parameters
from fusionproxy_ros.registration import Registration
from fusionproxy_ros.worker import FIRST_SHARE, STALL_SHARE, run_in_background

# Parameters that change a registration.
RELEVANT = (
    "registration_mode",
    "calibration_file",
    "extrinsics_source",
    "homography",
    "rotation",
    "translation_m",
    "plane_depth_m",
    "nearest_object_m",
    "rgb_is_rectified",
)
PATIENCE = 0.8  # of what the worker takes for a stall, a frame waits for the grid it asked for
CHECK_PERIOD_NS = 300_000_000  # between looks at the misalignment, in stamp time
MAX_VIEWS = 2  # a camera that switches sizes, or loses its calibration for a while, needs no new grid
MAX_SKEW_NS = 20_000_000  # what moves between the two exposures lies off as well
STALE_NS = 2 * NS_PER_S  # an estimate without a successor
# TF that differs by less is the same: 2e-4 rad is 0.1 px at a focal length of 500 px.
MOVED_RAD, MOVED_M = 2e-4, 1e-3


@dataclass(frozen=True, eq=False)
class _Known:
    """Everything a View is made of. infos: CameraInfo by camera, as far as they have come."""

    settings: Parameters
    infos: dict
    extrinsics: tuple[np.ndarray, np.ndarray] | str = "waiting for TF"  # or why there are none
    shift_px: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def key(self) -> tuple:
        """Equal for what gives equal views."""
        of_settings = tuple(getattr(self.settings, name) for name in RELEVANT)
        of_cameras = tuple(sorted((name, messages.intrinsics(msg)) for name, msg in self.infos.items()))
        of_tf = self.extrinsics
        if not isinstance(of_tf, str):
            of_tf = tuple(array.tobytes() for array in of_tf)
        return of_settings, of_cameras, of_tf, self.shift_px


@dataclass(frozen=True, eq=False)
class View:
    """What the rig has to offer for frames of one size.

    registration: None while it cannot be had, and `problem` says why.
    parallax_error_px: of an object at nearest_object_m, because it is not on the plane; NaN without a plane.
    """

    registration: Registration | None
    problem: str = ""
    parallax_error_px: float = math.nan


class Rig:
    """Thread-safe. Lookup grids take up to a tenth of a second, so they are built in the background and frames go on.

    A frame that has none waits for it for a while; then it passes, as do those that follow until it is there.

    topics: of the RGB and the thermal images, by which a Kalibr file names its cameras.
    lookup: (rgb_frame, thermal_frame) -> rotation, translation_m, from TF; None where it is not used.
    offline: every frame waits until its grid is there, and so gets exactly what is known at its time.
    """

    def __init__(
        self,
        settings: Parameters,
        topics: tuple[str, str],
        lookup: Callable | None = None,
        offline: bool = False,
    ):
        self._topics, self._lookup, self._offline = topics, lookup, offline
        self._lock = threading.Lock()
        self._known = _Known(settings, {})
        self._views: dict[tuple, View] = {}  # by sizes and _Known.key, the latest used last
        self._serving: dict[tuple[Size, Size], View] = {}  # by thermal and RGB size
        self._building: set[tuple[Size, Size]] = set()
        self._frame_ids: tuple[str, str] | None = None  # RGB, thermal

    @property
    def shift_px(self) -> tuple[float, float]:
        """The correction of a misalignment that frames get, or will as soon as its grid is built."""
        return self._known.shift_px

    @property
    def problem(self) -> str:
        """Why the frames of the latest size are not registered; empty when they are."""
        with self._lock:
            return next(reversed(self._serving.values())).problem if self._serving else ""

    def view(self, pair: Pair) -> View:
        """For one pair with a thermal frame. What is not up to date is built anew, and serves until that is done."""
        self._frame_ids = pair.rgb.frame_id, pair.thermal.frame_id
        sizes_px = pair.thermal.size_px, pair.rgb.size_px
        if not self._serve(sizes_px):
            built, old = self._request(sizes_px), self._serving.get(sizes_px)
            if built and (self._offline or old is None or old.registration is None):
                built.wait(None if self._offline else self._patience_s())
                self._serve(sizes_px)
        return self._serving.get(sizes_px) or View(None, "the lookup grid of the calibration is being built")

    def _patience_s(self) -> float:
        share = STALL_SHARE if self._serving else FIRST_SHARE
        return PATIENCE * self._known.settings.max_latency_s / share

    def _serve(self, sizes_px: tuple[Size, Size]) -> bool:
        """Serve the view of what is known now, if it was built already, for these sizes or an earlier time."""
        with self._lock:
            full_key = sizes_px, self._known.key
            view = self._views.get(full_key)
            if view is None:
                return False
            for kept, key in (self._views, full_key), (self._serving, sizes_px):
                kept.pop(key, None)
                kept[key] = view
                while len(kept) > MAX_VIEWS:
                    kept.pop(next(iter(kept)))
            return True

    def set_camera_info(self, name: str, msg) -> None:
        """A sensor_msgs/CameraInfo of "rgb" or "thermal"; only one that projects differently changes anything."""
        previous = self._known.infos.get(name)
        if previous is None or messages.intrinsics(previous) != messages.intrinsics(msg):
            self._learn(infos=self._known.infos | {name: msg}, shift_px=(0.0, 0.0))

    def set_settings(self, settings: Parameters) -> None:
        """Parameters that may have changed."""
        if settings != self._known.settings:
            shift_px = self.shift_px if settings.refine_max_px else (0.0, 0.0)
            self._learn(settings=settings, shift_px=shift_px)

    def set_shift(self, shift_px: tuple[float, float]) -> None:
        """Correct a misalignment, see Registration; forgotten when the calibration changes."""
        self._learn(shift_px=shift_px)

    def follow_transforms(self) -> None:
        """Look TF up once more; call it about once a second."""
        if self._lookup is None or self._frame_ids is None:
            return
        previous = self._known.extrinsics
        try:
            extrinsics = self._lookup(*self._frame_ids)
        except RegistrationError as error:
            if isinstance(previous, str) and previous != str(error):
                self._learn(extrinsics=str(error))
            return  # what was once known holds until something else is known
        if isinstance(previous, str) or _moved(previous, extrinsics):
            self._learn(extrinsics=extrinsics, shift_px=(0.0, 0.0))

    def _learn(self, **changes) -> None:
        with self._lock:
            self._known = replace(self._known, **changes)

    def _request(self, sizes_px: tuple[Size, Size]) -> threading.Event | None:
        """Build a view in the background; tells when it is done. None where that is under way already."""
        with self._lock:
            if sizes_px in self._building:
                return None
            self._building.add(sizes_px)
        built = threading.Event()
        run_in_background(self._build, sizes_px, built, urgent=sizes_px not in self._serving)
        return built

    def _build(self, sizes_px: tuple[Size, Size], built: threading.Event) -> None:
        known = self._known
        try:
            made, parallax_error_px = self._registration(known)
            if any(known.shift_px):
                made = made.shifted(known.shift_px)
            made.prepare(*sizes_px)
            view = View(made, "", parallax_error_px)
        except RegistrationError as error:
            view = View(None, str(error))
        except Exception as error:  # absurd numbers; the thread must not end without an answer
            view = View(None, f"this calibration cannot be used: {type(error).__name__}: {shown(str(error))}")
        with self._lock:
            # Served even if more is known by now: a lens that refocuses with every frame is followed all the same.
            self._views[sizes_px, known.key] = self._serving[sizes_px] = view
            self._building.discard(sizes_px)
        built.set()

    def _registration(self, known: _Known) -> tuple[Registration, float]:
        settings = known.settings
        if settings.registration_mode == "identity":
            return registration.identity(), math.nan
        if settings.registration_mode == "homography":
            if settings.calibration_file:
                return registration.homography(load_homography(settings.calibration_file)), math.nan
            return registration.homography(np.reshape(settings.homography, (3, 3))), math.nan
        calibration = self._calibration(known)
        make = {"extrinsic": registration.extrinsic, "depth": registration.depth}[settings.registration_mode]
        plane_m = settings.plane_depth_m
        error_px = registration.parallax_error_px(calibration, plane_m, settings.nearest_object_m)
        return make(calibration, plane_m, settings.rgb_is_rectified), error_px

    def _calibration(self, known: _Known) -> Calibration:
        """Cameras from the file or their camera_info; the motion between them from TF, the file or parameters."""
        settings, cameras = known.settings, {}
        file = (
            load_calibration(settings.calibration_file, *self._topics) if settings.calibration_file else None
        )
        for name in ("rgb", "thermal"):
            rectified = name == "rgb" and settings.rgb_is_rectified  # which only camera_info's P describes
            if file and not rectified:
                cameras[name] = getattr(file, name)
            elif name in known.infos:
                cameras[name] = messages.read_camera_info(known.infos[name], rectified)
            else:
                raise RegistrationError(
                    f"waiting for {name}/camera_info: publish it, or set registration.calibration_file "
                    "or another registration.mode"
                )
        if settings.extrinsics_source == "tf":
            if isinstance(known.extrinsics, str):
                raise RegistrationError(known.extrinsics)
            rotation, translation_m = known.extrinsics
        elif file:
            rotation, translation_m = file.rotation, file.translation_m
        else:
            rotation, translation_m = np.reshape(settings.rotation, (3, 3)), np.array(settings.translation_m)
        return Calibration(cameras["rgb"], cameras["thermal"], rotation, translation_m)


def _moved(before: tuple, after: tuple) -> bool:
    turn, _ = cv2.Rodrigues(before[0].T @ after[0])
    return np.linalg.norm(turn) > MOVED_RAD or np.linalg.norm(before[1] - after[1]) > MOVED_M


class AlignmentWatch:
    """Looks at the fused stream a few times a second, in the background, for thermal that lies beside RGB.

    estimate: the latest answer; None while the pictures give none. It also refines `rig` where settings allow.
    """

    def __init__(self, rig: Rig):
        self._rig, self._monitor = rig, MisalignmentMonitor()
        self._busy = False
        self._last_ns = 0
        self.estimate: Misalignment | None = None

    def offer(self, pair: Pair, fused: Fused, view: View, settings: Parameters) -> None:
        """One answered pair; looked at when it is FUSED, the last one is done with, and long enough ago."""
        if self.estimate and abs(pair.rgb.stamp_ns - self.estimate.stamp_ns) > STALE_NS:
            self.estimate = None
        due = abs(pair.rgb.stamp_ns - self._last_ns) >= CHECK_PERIOD_NS
        matches = fused.mode is Mode.FUSED and abs(pair.skew_ns) <= MAX_SKEW_NS
        if settings.misalignment_warn_px and due and not self._busy and matches:
            self._busy, self._last_ns = True, pair.rgb.stamp_ns
            run_in_background(partial(self._look, pair, fused, view.registration, settings.refine_max_px))

    def _look(self, pair: Pair, fused: Fused, used: Registration, refine_max_px: float) -> None:
        try:
            epoch = pair.epoch, used
            luma = luma_of(pair.rgb)
            self.estimate = self._monitor.update(luma, fused.thermal, fused.mask, pair.rgb.stamp_ns, epoch)
            if refine_max_px and used.shift_px == self._rig.shift_px:  # else a correction is on its way
                shift_px = refine(used.shift_px, self.estimate, refine_max_px)
                if shift_px != used.shift_px:
                    self._rig.set_shift(shift_px)
        except FusionError:  # images too small to compare
            self.estimate = None
        finally:
            self._busy = False
