"""How far to trust a calibration: errors of each view, coverage, uncertainty, and what is missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.calibrate.board import Board, BoardView, pose, rgb_pose, shared_views
from fusionproxy_ros.geometry import lens
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.geometry.lens import Size

ENOUGH_VIEWS = 10
ENOUGH_TILT_DEG = 20.0
MIN_COVERAGE = 0.5
MAX_FOCAL_DEVIATION = 0.01
MAX_UNCERTAINTY_PX = 2.0
FAR = 20.0  # "far" is so many times the board's distance
MIN_VIEWS_FOR_UNCERTAINTY = 5  # fewer shared views give no uncertainty: each refit needs enough of them
GROUPS = 10  # refits for the uncertainty


@dataclass(frozen=True)
class ViewQuality:
    """How well the calibration explains one view. RMS over the board's points, pixels; None where not seen.

    stereo_px: of both cameras together, from one pose of the board. depth_m, tilt_deg: of the board before the RGB
        camera (before the thermal one where only that sees it); tilt 0 faces the camera.
    """

    name: str
    rgb_px: float | None
    thermal_px: float | None
    stereo_px: float | None
    depth_m: float
    tilt_deg: float


@dataclass(frozen=True)
class Uncertainty:
    """One standard deviation of the result, by a jackknife over groups of views, hence with all that differs
    between views: corner noise, a bent board, exposures that are not simultaneous.

    board_px, far_px: of thermal positions of RGB pixels, at the board's distance and FAR times that.
    """

    rgb_focal_px: float
    thermal_focal_px: float
    rotation_deg: float
    translation_m: float
    board_px: float
    far_px: float


def view_quality(
    board: Board, calibration: Calibration, view: BoardView, stereo_px: float | None
) -> ViewQuality:
    """stereo_px: RMS of both cameras together, where both see the board."""
    poses = {
        side: pose(board, camera, points)
        for side, camera, points in (
            ("rgb", calibration.rgb, view.rgb),
            ("thermal", calibration.thermal, view.thermal),
        )
        if points is not None
    }
    rotation, translation_m, _ = poses.get("rgb") or poses["thermal"]
    centre_m = rotation @ board.points_m().mean(axis=0) + translation_m
    return ViewQuality(
        name=view.name,
        rgb_px=poses["rgb"][2] if "rgb" in poses else None,
        thermal_px=poses["thermal"][2] if "thermal" in poses else None,
        stereo_px=stereo_px,
        depth_m=float(centre_m[2]),
        tilt_deg=float(np.degrees(np.arccos(min(abs(rotation[2, 2]), 1.0)))),
    )


def tilt_range_deg(board: Board, calibration: Calibration, views: Iterable[BoardView]) -> float:
    """The largest angle between the planes of two boards that both cameras see."""
    turns = [rgb_pose(board, calibration, view)[:3] for view in shared_views(views)]
    normals = np.array([cv2.Rodrigues(turn)[0][:, 2] for turn in turns])
    return float(np.degrees(np.arccos(np.clip(normals @ normals.T, -1, 1).min())))


def coverage(boards: Iterable[np.ndarray], size_px: Size) -> float:
    """Share of the image inside the outline of at least one board."""
    return float((covered(boards, size_px) > 0).mean())


def covered(boards: Iterable[np.ndarray], size_px: Size) -> np.ndarray:
    """(H, W) uint8: 255 inside the outline of at least one board; each given by its corners, (N, 2) pixels."""
    mask = np.zeros(size_px[::-1], np.uint8)
    for corners in boards:
        cv2.fillConvexPoly(mask, cv2.convexHull(corners).round().astype(np.int32), 255)
    return mask


def estimated_uncertainty(
    views: Sequence[BoardView],
    best: Calibration,
    refit: Callable[[list[BoardView]], Calibration],
    board_depth_m: float,
) -> Uncertainty | None:
    """Delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11) over the shared views.

    best: from all views. refit: the calibration from some of them.
    """
    shared = shared_views(views)
    if len(shared) < MIN_VIEWS_FOR_UNCERTAINTY:
        return None
    groups = min(GROUPS, len(shared))
    refits = []
    for group in range(groups):
        left_out = {view.name for view in shared[group::groups]}
        kept = [view for view in views if view.name not in left_out]
        refits.append(refit(kept))

    def deviation(values: Sequence) -> float:
        """RMS over whatever the values hold, of the length of their last axis."""
        difference = np.array(values) - np.mean(values, axis=0)
        return float(np.sqrt((groups - 1) * (difference**2).sum(axis=-1).mean()))

    def turn(calibration: Calibration) -> np.ndarray:
        return cv2.Rodrigues(calibration.rotation @ best.rotation.T)[0].ravel()

    return Uncertainty(
        rgb_focal_px=deviation([[c.rgb.k[0, 0]] for c in refits]),
        thermal_focal_px=deviation([[c.thermal.k[0, 0]] for c in refits]),
        rotation_deg=float(np.degrees(deviation([turn(c) for c in refits]))),
        translation_m=deviation([c.translation_m for c in refits]),
        board_px=deviation(_thermal_positions(best, refits, board_depth_m)),
        far_px=deviation(_thermal_positions(best, refits, FAR * board_depth_m)),
    )


def _thermal_positions(best: Calibration, refits: list[Calibration], depth_m: float) -> list[np.ndarray]:
    """Where each refit puts a grid of RGB pixels at one depth: (N, 2) thermal pixels each; those in view of `best`."""
    x, y = (np.linspace(0, side - 1, 12) for side in (best.rgb.width_px, best.rgb.height_px))
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def positions(c: Calibration) -> tuple[np.ndarray, np.ndarray]:
        directions, found = lens.rays(c.rgb, pixels)
        points_m = depth_m * np.column_stack([directions, np.ones(len(pixels))])
        thermal, valid = lens.project(c.thermal, points_m @ c.rotation.T + c.translation_m)
        return thermal, found & valid

    thermal, valid = positions(best)
    inside = valid & (
        (thermal >= -0.5) & (thermal <= np.array([best.thermal.width_px, best.thermal.height_px]) - 0.5)
    ).all(axis=1)
    return [positions(c)[0][inside] for c in refits]


def quality_warnings(
    calibration: Calibration,
    shared: int,
    tilt_deg: float,
    coverages: tuple[float, float],
    uncertainty: Uncertainty | None,
) -> Iterator[str]:
    """What the views do not determine, each with its cure.

    shared: number of views that both cameras see. tilt_deg: as `tilt_range_deg`. coverages: of RGB and thermal.
    """
    if shared < ENOUGH_VIEWS:
        yield f"only {shared} views show the board to both cameras: take {ENOUGH_VIEWS} to 30"
    if tilt_deg < ENOUGH_TILT_DEG:
        yield (
            f"the boards' tilts differ by no more than {tilt_deg:.0f} degrees, so focal length and distance can hardly "
            "be told apart: tilt it by 30 to 45 degrees to the left, right, top and bottom"
        )
    for side, share in zip(("RGB", "thermal"), coverages, strict=True):
        if share < MIN_COVERAGE:
            yield (
                f"the boards cover {share:.0%} of the {side} image, beyond which the lens model is a guess: hold the "
                "board into the corners too (coverage.png shows which), or nearer"
            )
    if uncertainty is None:
        yield "too few views to say how certain the result is: take more"
        return
    for side, camera, deviation_px in (
        ("RGB", calibration.rgb, uncertainty.rgb_focal_px),
        ("thermal", calibration.thermal, uncertainty.thermal_focal_px),
    ):
        if deviation_px > MAX_FOCAL_DEVIATION * camera.k[0, 0]:
            yield (
                f"the {side} focal length is known only to {deviation_px / camera.k[0, 0]:.1%}: take more views, with "
                "more tilt and at more distances"
            )
    for where, pixels in (
        ("the board's distance", uncertainty.board_px),
        (f"{FAR:.0f} times it", uncertainty.far_px),
    ):
        if pixels > MAX_UNCERTAINTY_PX:
            yield (
                f"thermal positions at {where} are known only to {pixels:.1f} px: take more views, spread over the "
                "image, with tilt, and at more distances"
            )
