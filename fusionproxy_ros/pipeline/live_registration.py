"""Where the cameras are, followed while frames come: camera_info, TF, parameters and corrections -> a Registration."""

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from fusionproxy_ros.core.background import run_in_background
from fusionproxy_ros.core.errors import NotFusedError, RegistrationError, shown
from fusionproxy_ros.core.frames import Pair
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.calibration_files import load_calibration, load_homography
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.geometry.camera_info import intrinsics, read_camera_info
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.geometry.lens import Size
from fusionproxy_ros.geometry.registration import Registration
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.pipeline.worker import FIRST_SHARE, STALL_SHARE

PATIENCE = 0.8  # of what the worker takes for a stall, a frame waits for the grid it asked for
MAX_BUILT = 2  # a camera that switches sizes, or loses its calibration for a while, needs no new grid

# TF that differs by less is the same: 2e-4 rad is 0.1 px at a focal length of 500 px.
MOVED_RAD, MOVED_M = 2e-4, 1e-3
Sizes = tuple[Size, Size]  # of the thermal and the RGB image
Extrinsics = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation_m (3,)
Lookup = Callable[[str, str], Extrinsics]  # of the RGB and the thermal frame_id


@dataclass(frozen=True, eq=False)
class _Known:
    """Everything a CurrentRegistration is made of. infos: CameraInfo by camera, as far as they have come."""

    settings: RegistrationSettings
    infos: dict[str, Any]
    extrinsics: Extrinsics | str = "waiting for TF"  # or why there are none
    shift_px: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def key(self) -> Hashable:
        """Equal for what gives equal registrations."""
        of_cameras = tuple(sorted((name, intrinsics(msg)) for name, msg in self.infos.items()))
        of_tf = self.extrinsics
        if isinstance(of_tf, str):
            return self.settings, of_cameras, of_tf, self.shift_px
        return self.settings, of_cameras, tuple(array.tobytes() for array in of_tf), self.shift_px


@dataclass(frozen=True, eq=False)
class CurrentRegistration:
    """What holds for frames of one size now.

    parallax_error_px: of an object at nearest_object_m, because it is not on the plane; NaN without a plane.
    """

    registration: Registration
    parallax_error_px: float = math.nan


class LiveRegistration:
    """One camera pair's. Thread-safe: the worker asks, callbacks and the drift watch tell what changed.

    Lookup grids take up to a tenth of a second, so they are built in the background and frames go on. A frame that has
    none waits for it for a while; then it passes, as do those that follow until it is there.

    topics: of the RGB and the thermal images, by which a Kalibr file names its cameras.
    lookup: (rgb_frame, thermal_frame) -> rotation, translation_m, from TF; None where it is not used.
    offline: every frame waits until its grid is there, and so gets exactly what is known at its time.
    """

    def __init__(
        self,
        settings: Settings,
        topics: tuple[str, str],
        lookup: Lookup | None = None,
        offline: bool = False,
    ):
        self._topics, self._lookup, self._offline = topics, lookup, offline
        self._max_latency_s = settings.sync.max_latency_s
        self._lock = threading.Lock()
        self._known = _Known(settings.registration, {})
        # A registration, or why there is none. By sizes and _Known.key, and by sizes; the latest used last.
        self._built: dict[Hashable, CurrentRegistration | str] = {}
        self._serving: dict[Sizes, CurrentRegistration | str] = {}
        self._building: set[Sizes] = set()
        # Of RGB and thermal. Written by the worker, read by callbacks; one reference, so that no lock is needed.
        self._frame_ids: tuple[str, str] | None = None

    @property
    def shift_px(self) -> tuple[float, float]:
        """The correction of a misalignment that frames get, or will as soon as its grid is built."""
        return self._known.shift_px

    @property
    def problem(self) -> str:
        """Why the frames of the latest size are not registered; empty when they are."""
        with self._lock:
            latest = next(reversed(self._serving.values())) if self._serving else ""
            return latest if isinstance(latest, str) else ""

    def current(self, pair: Pair) -> CurrentRegistration:
        """For one pair with a thermal frame. What is not up to date is built anew, and serves until that is done.

        Raises NotFusedError while there is none.
        """
        assert pair.thermal is not None
        self._frame_ids = pair.rgb.frame_id, pair.thermal.frame_id
        sizes_px = pair.thermal.size_px, pair.rgb.size_px
        serving = self._serve(sizes_px)
        if serving is None:
            built, serving = self._request(sizes_px), self._latest(sizes_px)
            if built and (self._offline or not isinstance(serving, CurrentRegistration)):
                built.wait(None if self._offline else self._patience_s())
                serving = self._serve(sizes_px) or self._latest(sizes_px)
        if isinstance(serving, CurrentRegistration):
            return serving
        raise NotFusedError(serving or "the lookup grid of the calibration is being built")

    def _patience_s(self) -> float:
        share = STALL_SHARE if self._serving else FIRST_SHARE
        return PATIENCE * self._max_latency_s / share

    def _latest(self, sizes_px: Sizes) -> CurrentRegistration | str | None:
        """What serves, be it of now or of an earlier time."""
        with self._lock:
            return self._serving.get(sizes_px)

    def _serve(self, sizes_px: Sizes) -> CurrentRegistration | str | None:
        """Serve what is known now, if it was built already, for these sizes or an earlier time."""
        with self._lock:
            full_key = sizes_px, self._known.key
            found = self._built.get(full_key)
            if found is None:
                return None
            _use(self._built, full_key, found)
            _use(self._serving, sizes_px, found)
            return found

    def set_camera_info(self, name: str, msg) -> None:
        """A sensor_msgs/CameraInfo of "rgb" or "thermal"; only one that projects differently changes anything."""
        previous = self._known.infos.get(name)
        if previous is None or intrinsics(previous) != intrinsics(msg):
            self._learn(infos=self._known.infos | {name: msg}, shift_px=(0.0, 0.0))

    def set_settings(self, settings: Settings) -> None:
        """Parameters that may have changed."""
        self._max_latency_s = settings.sync.max_latency_s
        uncorrected = {} if settings.drift.refine_max_px else {"shift_px": (0.0, 0.0)}
        self._learn(settings=settings.registration, **uncorrected)

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

    def _learn(self, **changes: Any) -> None:
        with self._lock:
            self._known = replace(self._known, **changes)

    def _request(self, sizes_px: Sizes) -> threading.Event | None:
        """Build a registration in the background; tells when it is done. None where that is under way already."""
        with self._lock:
            if sizes_px in self._building:
                return None
            self._building.add(sizes_px)
        built = threading.Event()
        run_in_background(self._build, sizes_px, built, urgent=sizes_px not in self._serving)
        return built

    def _build(self, sizes_px: Sizes, built: threading.Event) -> None:
        known = self._known
        found: CurrentRegistration | str
        try:
            made, parallax_error_px = self._registration(known)
            if any(known.shift_px):
                made = made.shifted(known.shift_px)
            made.prepare(*sizes_px)
            found = CurrentRegistration(made, parallax_error_px)
        except RegistrationError as error:
            found = str(error)
        except Exception as error:  # absurd numbers; the thread must not end without an answer
            found = f"this calibration cannot be used: {type(error).__name__}: {shown(str(error))}"
        with self._lock:
            # Served even if more is known by now: a lens that refocuses with every frame is followed all the same.
            self._built[sizes_px, known.key] = self._serving[sizes_px] = found
            self._building.discard(sizes_px)
        built.set()

    def _registration(self, known: _Known) -> tuple[Registration, float]:
        settings = known.settings
        if settings.mode == "identity":
            return registration.identity(), math.nan
        if settings.mode == "homography":
            if settings.calibration_file:
                return registration.homography(load_homography(settings.calibration_file)), math.nan
            return registration.homography(np.reshape(settings.homography, (3, 3))), math.nan
        calibration = self._calibration(known)
        make = {"extrinsic": registration.extrinsic, "depth": by_depth}[settings.mode]
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
                cameras[name] = read_camera_info(known.infos[name], rectified)
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


def _moved(before: Extrinsics, after: Extrinsics) -> bool:
    turn, _ = cv2.Rodrigues(before[0].T @ after[0])
    return bool(np.linalg.norm(turn) > MOVED_RAD or np.linalg.norm(before[1] - after[1]) > MOVED_M)


def _use(kept: dict, key: Hashable, value: object) -> None:
    """Put it last; of more than MAX_BUILT the first go."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > MAX_BUILT:
        kept.pop(next(iter(kept)))
