"""Both cameras, and the motion between them, from views of one board."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np

from fusionproxy_ros.calibrate.board import (
    Board,
    BoardError,
    BoardView,
    SharedView,
    corners_in,
    pose,
    rgb_pose,
    shared_views,
    transfer_error_px,
)
from fusionproxy_ros.calibrate.bundle_adjustment import adjust
from fusionproxy_ros.calibrate.quality import (
    ENOUGH_VIEWS,
    Uncertainty,
    ViewQuality,
    coverage,
    estimated_uncertainty,
    quality_warnings,
    tilt_range_deg,
    view_quality,
)
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.lens import Size

MIN_VIEWS = 3  # Zhang 2000: fewer homographies do not determine the intrinsics
KEPT_VIEWS = 5  # outlier rejection leaves at least so many
OUTLIER_FACTOR = 3.0
OUTLIER_MIN_PX = 1.0  # a view that the others predict to a pixel is never thrown away
INVERTED_FACTOR = 0.7  # a camera mounted upside down must fit so much better than an upright one
LEAST_TILT_DEG = (
    5.0  # parallel boards say nothing about the intrinsics (Zhang 2000), nor does their agreement
)
UNDETERMINED = (
    "the views are too much alike to determine a camera: take more, with the board tilted differently"
)
AnyView = TypeVar("AnyView", bound=BoardView)


@dataclass(frozen=True, eq=False)
class StereoResult:
    """What the views of a board say about both cameras.

    rms_px: what cv2.stereoCalibrate returns, over all accepted views that both cameras see. rgb_rms_px,
        thermal_rms_px: of each camera alone, over all its accepted views.
    views: accepted, in one order of corners. rejected: name -> why.
    coverage_*: share of the image that the accepted boards cover together, 0..1.
    uncertainty: None with too few views to tell.
    warnings: what the views do not determine, each with its cure.
    """

    calibration: Calibration
    rms_px: float
    rgb_rms_px: float
    thermal_rms_px: float
    views: tuple[BoardView, ...]
    quality: tuple[ViewQuality, ...]
    rejected: dict[str, str]
    board_depth_m: float
    rgb_coverage: float
    thermal_coverage: float
    uncertainty: Uncertainty | None
    warnings: tuple[str, ...]


def calibrate_stereo(
    views: list[BoardView], board: Board, rgb_size_px: Size, thermal_size_px: Size
) -> StereoResult:
    """Both cameras and the rigid motion between them from views of one board.

    Each camera is first calibrated from every view it has, then everything together, intrinsics included, by
    bundle_adjustment. Views that the others do not predict are left out, one by one.

    Two radial lens coefficients and gentle priors: on simulated rigs (7 to 30 views, 0.15 and 0.3 px noise, boards
    flat and bent) a third and tangential coefficients fitted noise; refining the intrinsics together with the motion
    quartered the error of registration far behind the board (7 views: 2.1 to 0.4 px median); and the priors cut its
    90th percentile over an unconstrained cv2.stereoCalibrate (0.8 to 0.4 px flat, 3.5 to 0.7 px bent).

    Convention:
        frame: optical frames, x right, y down, z forward.
        pixels: centres at integers.
        direction: p_thermal = rotation @ p_rgb + translation_m.
    Raises BoardError when fewer than MIN_VIEWS views show the board to both cameras, or OpenCV finds no solution.
    """
    problem = _Problem(board, rgb_size_px, thermal_size_px)
    _check_count(views)
    rejected: dict[str, str] = {}
    for side in ("rgb", "thermal"):
        views = _without_mono_outliers(problem, views, side, rejected)
    _check_count(views, rejected)
    views = _in_one_order(problem, views)
    views = _without_stereo_outliers(problem, views, rejected)
    solution = problem.solve(views)
    best = solution.calibration
    tilt_deg = tilt_range_deg(board, best, views)
    if tilt_deg < LEAST_TILT_DEG:
        raise BoardError(UNDETERMINED)
    quality = tuple(view_quality(board, best, view, solution.views_px.get(view.name)) for view in views)
    rgb_coverage, thermal_coverage = (
        coverage(corners_in(views, side), size_px) for side, size_px in problem.sizes
    )
    board_depth_m = float(np.median([q.depth_m for q in quality if q.stereo_px is not None]))
    uncertainty = estimated_uncertainty(views, best, lambda kept: problem.adjust(kept, best), board_depth_m)
    warnings = quality_warnings(
        best, len(shared_views(views)), tilt_deg, (rgb_coverage, thermal_coverage), uncertainty
    )
    return StereoResult(
        calibration=best,
        rms_px=solution.rms_px,
        rgb_rms_px=solution.rgb_rms_px,
        thermal_rms_px=solution.thermal_rms_px,
        views=tuple(views),
        quality=quality,
        rejected=rejected,
        board_depth_m=board_depth_m,
        rgb_coverage=rgb_coverage,
        thermal_coverage=thermal_coverage,
        uncertainty=uncertainty,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, eq=False)
class _Solution:
    """views_px: RMS of both cameras together per shared view, by name."""

    calibration: Calibration
    rms_px: float
    views_px: dict[str, float]
    rgb_rms_px: float = 0.0
    thermal_rms_px: float = 0.0


@dataclass(frozen=True)
class _Problem:
    """What stays the same while views come and go."""

    board: Board
    rgb_size_px: Size
    thermal_size_px: Size

    @property
    def sizes(self) -> tuple[tuple[str, Size], tuple[str, Size]]:
        return ("rgb", self.rgb_size_px), ("thermal", self.thermal_size_px)

    def solve_camera(self, points: list[np.ndarray], size_px: Size) -> tuple[float, Camera]:
        """RMS and intrinsics of one camera (Zhang 2000)."""
        flags = cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST
        try:
            rms_px, k, d, _, _ = cv2.calibrateCamera(
                [self.board.points_m()] * len(points), points, size_px, None, None, flags=flags
            )
        except cv2.error as error:
            raise BoardError(UNDETERMINED) from error
        if not (np.isfinite(rms_px) and np.isfinite(k).all() and np.isfinite(d).all()):
            raise BoardError(
                "the views do not determine a camera: take more, with the board tilted differently"
            )
        return rms_px, Camera(*size_px, k, "plumb_bob", d.ravel())

    def solve_each(self, views: Sequence[BoardView]) -> _Solution:
        """Each camera from all of its views, and the motion between them from those they share."""
        cameras = {}
        for side, size_px in self.sizes:
            cameras[side] = self.solve_camera(corners_in(views, side), size_px)
        (rgb_rms_px, rgb), (thermal_rms_px, thermal) = cameras["rgb"], cameras["thermal"]
        motion = self.solve_motion(views, rgb, thermal)
        return replace(motion, rgb_rms_px=rgb_rms_px, thermal_rms_px=thermal_rms_px)

    def solve_motion(self, views: Sequence[BoardView], rgb: Camera, thermal: Camera) -> _Solution:
        """The motion between calibrated cameras, from the views that both see."""
        shared = shared_views(views)
        rms_px, _, _, _, _, rotation, translation_m, _, _, _, _, errors_px = cv2.stereoCalibrateExtended(
            [self.board.points_m()] * len(shared),
            [v.rgb for v in shared],
            [v.thermal for v in shared],
            rgb.k,
            rgb.d,
            thermal.k,
            thermal.d,
            self.rgb_size_px,
            np.eye(3),  # to be written into, as the next: it is no first guess without a flag that says so
            np.zeros((3, 1)),
            flags=cv2.CALIB_FIX_INTRINSIC,
        )
        views_px = {v.name: float(np.sqrt((e**2).mean())) for v, e in zip(shared, errors_px, strict=True)}
        return _Solution(Calibration(rgb, thermal, rotation, translation_m.ravel()), rms_px, views_px)

    def solve(self, views: list[BoardView]) -> _Solution:
        """As solve_each, then everything together."""
        first = self.solve_each(views)
        adjusted = self.adjust(views, first.calibration)
        motion = self.solve_motion(views, adjusted.rgb, adjusted.thermal)
        return replace(motion, rgb_rms_px=first.rgb_rms_px, thermal_rms_px=first.thermal_rms_px)

    def adjust(self, views: list[BoardView], start: Calibration) -> Calibration:
        """Everything together, from a calibration near the answer."""
        poses = [rgb_pose(self.board, start, view) for view in views]
        try:
            return adjust(self.board.points_m(), [(v.rgb, v.thermal) for v in views], poses, start)
        except np.linalg.LinAlgError as error:
            raise BoardError(UNDETERMINED) from error


def _check_count(views: list[BoardView], rejected: dict[str, str] | None = None) -> None:
    shared = len(shared_views(views))
    if shared >= MIN_VIEWS:
        return
    rgb, thermal = (len(corners_in(views, side)) for side in ("rgb", "thermal"))
    dropped = (
        f", {len(rejected)} left out ({'; '.join(f'{name}: {why}' for name, why in rejected.items())})"
        if rejected
        else ""
    )
    raise BoardError(
        f"only {shared} of {len(views)} views show the whole board to both cameras (RGB {rgb}, thermal {thermal}"
        f"{dropped}), and {MIN_VIEWS} are the least: take {ENOUGH_VIEWS} or more, check the board's size and "
        "pattern, and for thermal heat the board or tilt it so that it reflects a cold sky"
    )


# --- which corner is first


def _in_one_order(problem: _Problem, views: list[BoardView]) -> list[BoardView]:
    """Thermal corners numbered as the RGB ones.

    A board that looks the same after a half turn gives each camera one of two orders, and thermal contrast, which
    may be inverted, cannot tell them apart. The cameras are rigidly mounted: in every view the thermal picture of
    the board is turned against the RGB picture by about the same angle. That leaves two choices for all views
    together, a half turn apart, and only one of them agrees with one rigid motion.
    """
    if problem.board.has_one_order:
        return views
    shared = shared_views(views)
    angles = np.array([_turn(view) for view in shared])
    common = np.angle(np.exp(2j * angles).sum()) / 2  # -90 to 90 degrees; doubling makes a half turn vanish
    against = {view.name for view, angle in zip(shared, angles, strict=True) if np.cos(angle - common) < 0}

    def half_turned(names: set[str]) -> list[BoardView]:
        return [
            replace(v, thermal=np.ascontiguousarray(v.thermal[::-1]))
            if v.thermal is not None and v.name in names
            else v
            for v in views
        ]

    def error_px(candidate: list[BoardView]) -> float:
        calibration = problem.solve_each(candidate).calibration
        return float(
            np.median([transfer_error_px(problem.board, calibration, v) for v in shared_views(candidate)])
        )

    upright, inverted = half_turned(against), half_turned({view.name for view in shared} - against)
    return inverted if error_px(inverted) < INVERTED_FACTOR * error_px(upright) else upright


def _turn(view: SharedView) -> float:
    """Angle, radians, of the similarity that best maps the RGB points onto the thermal ones."""
    rgb, thermal = ((points - points.mean(axis=0)) @ (1, 1j) for points in (view.rgb, view.thermal))
    return float(np.angle(np.vdot(rgb, thermal)))


# --- which views to believe


def _without_mono_outliers(
    problem: _Problem, views: list[BoardView], side: str, rejected: dict[str, str]
) -> list[BoardView]:
    """The views less those whose points in one camera contradict the others'; adds to `rejected`."""
    size_px = dict(problem.sizes)[side]

    def errors_px(kept: list[BoardView], asked: list[BoardView]) -> np.ndarray:
        _, camera = problem.solve_camera(corners_in(kept, side), size_px)
        return np.array([pose(problem.board, camera, corners)[2] for corners in corners_in(asked, side)])

    seen = [view for view in views if view.corners(side) is not None]
    if len(seen) < MIN_VIEWS:
        return views
    reason = f"its {side} corners are {{:.1f}} px off what the other views' {side} camera allows (they: {{:.1f}} px)"
    outliers = _outliers(seen, errors_px, reason + ": board bent, blurred or wrongly found")
    rejected.update(outliers)
    return [view for view in views if view.name not in outliers]


def _without_stereo_outliers(
    problem: _Problem, views: list[BoardView], rejected: dict[str, str]
) -> list[BoardView]:
    """The views less those whose two pictures contradict the others' motion; adds to `rejected`."""

    def errors_px(kept: list[SharedView], asked: list[SharedView]) -> np.ndarray:
        calibration = problem.solve_each(kept).calibration
        return np.array([transfer_error_px(problem.board, calibration, v) for v in asked])

    reason = (
        "its thermal corners are {:.1f} px from where the other views put them from RGB (they: {:.1f} px)"
    )
    outliers = _outliers(
        shared_views(views), errors_px, reason + ": board moved between the exposures, or not a pair"
    )
    rejected.update(outliers)
    return [view for view in views if view.name not in outliers]


def _outliers(
    views: list[AnyView], errors_px: Callable[[list[AnyView], list[AnyView]], np.ndarray], reason: str
) -> dict[str, str]:
    """Name -> reason of the views that the others do not predict, worst first.

    errors_px(kept, asked): RMS errors of the views `asked` under a calibration from `kept`. A view is judged by a
    calibration that never saw it: one wrong view of ten bends the common solution to hide itself.
    """
    found: dict[str, str] = {}
    while len(views) > KEPT_VIEWS:
        worst = int(np.argmax(errors_px(views, views)))
        rest = views[:worst] + views[worst + 1 :]
        *others_px, error_px = errors_px(rest, [*rest, views[worst]])
        if error_px < max(OUTLIER_FACTOR * np.median(others_px), OUTLIER_MIN_PX):
            break
        found[views[worst].name] = reason.format(error_px, np.median(others_px))
        views = rest
    return found
