"""A calibration board seen by both cameras: finding it, and solving for both cameras and the motion between them.

Pixel centres are at integer coordinates; the corners of a view are (N, 2) float32 pixels, row by row of the board.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusionproxy_ros import lens
from fusionproxy_ros.calibrate import bundle
from fusionproxy_ros.frames import Calibration, Camera, FusionError

PATTERNS = ("checkerboard", "circles", "asymmetric_circles")

# Search: images are brought to the first length of their longer side, so that every camera's board looks alike, then,
# if that finds none and they have so many pixels, to the second.
SEARCH_SIDES_PX = (640, 1280)
MAX_ENLARGEMENT = 4.0  # of a 160x120 thermal core
CONTRAST_SIGMAS_PX = (12.0, 6.0)  # about half a square; 24 found nothing that these did not
SUBPIX_WINDOW = 0.3  # half-width of the refinement window, of the distance between corners
SUBPIX_MAX_PX = 11
MAX_WARP = 0.35  # how far a corner may lie off a plane's homography, of the distance between corners: lens distortion

# Solving
MIN_VIEWS = 3  # Zhang 2000: fewer homographies do not determine the intrinsics
ENOUGH_VIEWS = 10
KEPT_VIEWS = 5  # outlier rejection leaves at least so many
OUTLIER_FACTOR = 3.0
OUTLIER_MIN_PX = 1.0  # a view that the others predict to a pixel is never thrown away
INVERTED_FACTOR = 0.7  # a camera mounted upside down must fit so much better than an upright one
LEAST_TILT_DEG = (
    5.0  # parallel boards say nothing about the intrinsics (Zhang 2000), nor does their agreement
)
ENOUGH_TILT_DEG = 20.0
MIN_COVERAGE = 0.5
MAX_FOCAL_DEVIATION = 0.01
MAX_UNCERTAINTY_PX = 2.0
FAR = 20.0  # "far" is so many times the board's distance
UNDETERMINED = (
    "the views are too much alike to determine a camera: take more, with the board tilted differently"
)
GROUPS = 10  # refits for the uncertainty

Size = tuple[int, int]


class BoardError(FusionError):
    """The views of the board give no calibration. The message names the cause and the cure."""


@dataclass(frozen=True)
class Board:
    """A flat board with a regular pattern.

    pattern: one of PATTERNS.
    columns, rows: inner corners of a checkerboard (squares minus one), or circles, in each direction. In
        "asymmetric_circles" every other row is shifted by half a step: `columns` circles in each of `rows` rows.
    square_m: metres between neighbouring corners or circles; for asymmetric circles between neighbouring rows,
        which is half the distance between the circles of one row.
    Raises BoardError for a board that cannot be used.
    """

    pattern: str
    columns: int
    rows: int
    square_m: float

    def __post_init__(self):
        if self.pattern not in PATTERNS:
            raise BoardError(f"pattern '{self.pattern}' is unknown: give one of {', '.join(PATTERNS)}")
        if min(self.columns, self.rows) < 3:
            raise BoardError(f"a board of {self.columns}x{self.rows} is too small: use at least 3x3 points")
        if self.columns == self.rows and self.pattern != "asymmetric_circles":
            raise BoardError(
                f"a board of {self.columns}x{self.rows} looks the same after a quarter turn, so the cameras cannot "
                "agree which corner is first: use one with different numbers of columns and rows"
            )
        if not 0 < self.square_m < np.inf:
            raise BoardError(f"square_m is {self.square_m}: give the distance between corners in metres")

    @property
    def has_one_order(self) -> bool:
        """Whether the board's outline alone says which point is the first; others look alike after a half turn."""
        return self.pattern == "asymmetric_circles" and self.rows % 2 == 1

    def points_m(self) -> np.ndarray:
        """(N, 3) float32, row by row, on the board's plane z = 0; x along a row."""
        row, column = np.divmod(np.arange(self.columns * self.rows), self.columns)
        if self.pattern == "asymmetric_circles":
            column = 2 * column + row % 2
        return (self.square_m * np.stack([column, row, np.zeros_like(row)], axis=1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class View:
    """One exposure of the board by both cameras.

    rgb, thermal: (N, 2) float32 pixels in the board's order, or None where that camera does not show the board.
    """

    name: str
    rgb: np.ndarray | None
    thermal: np.ndarray | None


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
    views: tuple[View, ...]
    quality: tuple[ViewQuality, ...]
    rejected: dict[str, str]
    board_depth_m: float
    rgb_coverage: float
    thermal_coverage: float
    uncertainty: Uncertainty | None
    warnings: tuple[str, ...]


# --- finding the board in one image


def find_board(pixels: np.ndarray, board: Board) -> np.ndarray | None:
    """The board's points in one image: (N, 2) float32 pixels, row by row, or None.

    pixels: (H, W) uint8, uint16 or float32, or (H, W, 3) uint8; either polarity of contrast. NaN is allowed.
    The order never mirrors the board. Of the two orders that differ by a half turn it is the one whose rows run
    to the right (down, where they are upright); `calibrate_stereo` decides between them across cameras.

    Thermal boards are hot in the middle and have little contrast: plain stretching finds none of 16 real ones,
    local contrast normalisation and the exhaustive sector-based finder (Duda and Frese 2018) find all.
    """
    grey = _grey(pixels)
    find, refine = (
        (_find_corners, _refined_corners) if board.pattern == "checkerboard" else (_find_circles, None)
    )
    for scale in _search_scales(grey.shape):
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=interpolation)
        for picture in _pictures(resized):
            points = find(picture, board)
            if points is None:
                continue
            points = (points + 0.5) / scale - 0.5
            if refine:
                points = refine(grey, points, board)
            points = _ordered(points, board)
            if points is not None and _is_plausible(points, board, grey.shape):
                return np.ascontiguousarray(points, np.float32)
    return None


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32, finite."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels
    grey = grey.astype(np.float32)
    finite = np.isfinite(grey)
    if finite.all():
        return grey
    return np.where(finite, grey, np.median(grey[finite]) if finite.any() else np.float32(0))


def _search_scales(shape: tuple[int, int]) -> list[float]:
    """Enlargements to search at, without repetition."""
    first, second = (side / max(shape) for side in SEARCH_SIDES_PX)
    first, second = min(first, MAX_ENLARGEMENT), min(second, 1.0)
    return [first, second] if second > first else [first]


def _pictures(grey: np.ndarray) -> Iterator[np.ndarray]:
    """(H, W) uint8 renderings of one image, the likeliest to show a board first."""
    low, high = np.percentile(grey, (1, 99))
    yield _to_uint8((grey - low) / max(high - low, 1e-6))
    for sigma_px in CONTRAST_SIGMAS_PX:
        yield _to_uint8(0.5 + _local_contrast(grey, sigma_px) / 4)


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return (255 * unit.clip(0, 1)).astype(np.uint8)


def _local_contrast(grey: np.ndarray, sigma_px: float) -> np.ndarray:
    """Difference from the local mean in local standard deviations; a floor keeps noise in flat areas small."""
    difference = grey - cv2.GaussianBlur(grey, (0, 0), sigma_px)
    deviation = np.sqrt(cv2.GaussianBlur(difference * difference, (0, 0), sigma_px))
    return difference / (deviation + 1e-3 * np.ptp(grey) + 1e-6)


def _find_corners(picture: np.ndarray, board: Board) -> np.ndarray | None:
    flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
    found, corners = cv2.findChessboardCornersSB(picture, (board.columns, board.rows), flags=flags)
    return corners.reshape(-1, 2) if found else None


def _refined_corners(grey: np.ndarray, corners: np.ndarray, board: Board) -> np.ndarray:
    """Corners moved to where all gradients around them point, in the full image less its slow background."""
    spacing_px = _spacing_px(corners, board)
    half = int(np.clip(SUBPIX_WINDOW * spacing_px, 2, SUBPIX_MAX_PX))
    picture = _local_contrast(grey, spacing_px / 2)
    refined = corners.reshape(-1, 1, 2).astype(np.float32)
    return cv2.cornerSubPix(picture, refined, (half, half), (-1, -1), (3, 50, 1e-4)).reshape(-1, 2)


def _find_circles(picture: np.ndarray, board: Board) -> np.ndarray | None:
    flags = (
        cv2.CALIB_CB_ASYMMETRIC_GRID if board.pattern == "asymmetric_circles" else cv2.CALIB_CB_SYMMETRIC_GRID
    )
    for image in (picture, 255 - picture):  # OpenCV's blobs are dark
        for method in (0, cv2.CALIB_CB_CLUSTERING):
            found, centres = cv2.findCirclesGrid(image, (board.columns, board.rows), flags=flags | method)
            if found:
                return centres.reshape(-1, 2)
    return None


def _spacing_px(points: np.ndarray, board: Board) -> float:
    """The smallest distance between neighbours of a row or column."""
    grid = points.reshape(board.rows, board.columns, 2)
    return float(min(np.linalg.norm(np.diff(grid, axis=axis), axis=2).min() for axis in (0, 1)))


def _ordered(points: np.ndarray, board: Board) -> np.ndarray | None:
    """The same points in an order that does not mirror the board, rows to the right; None if there is none."""
    grid = points.reshape(board.rows, board.columns, 2)
    across, down = (grid[:, -1] - grid[:, 0]).mean(axis=0), (grid[-1] - grid[0]).mean(axis=0)
    if across[0] * down[1] < across[1] * down[0]:
        if board.pattern == "asymmetric_circles":
            if not board.has_one_order:
                return None
            grid = grid[::-1]
        else:
            grid, across = grid[:, ::-1], -across
    ordered = grid.reshape(-1, 2)
    if not board.has_one_order and (across[0] < 0 if abs(across[0]) > 1e-3 else across[1] < 0):
        ordered = ordered[::-1]
    return ordered


def _is_plausible(points: np.ndarray, board: Board, shape: tuple[int, int]) -> bool:
    """Inside the image and, but for lens distortion, a plane seen by a camera."""
    if not ((points >= -0.5) & (points <= np.array(shape[::-1]) - 0.5)).all():
        return False
    plane = board.points_m()[:, :2] / board.square_m
    h, _ = cv2.findHomography(plane, points)
    if h is None:
        return False
    back = cv2.perspectiveTransform(points.reshape(-1, 1, 2).astype(np.float64), np.linalg.inv(h)).reshape(
        -1, 2
    )
    return bool(np.linalg.norm(back - plane, axis=1).max() < MAX_WARP)


# --- solving


def calibrate_stereo(
    views: list[View], board: Board, rgb_size_px: Size, thermal_size_px: Size
) -> StereoResult:
    """Both cameras and the rigid motion between them from views of one board.

    Each camera is first calibrated from every view it has, then everything together, intrinsics included, by
    bundle.refine. Views that the others do not predict are left out, one by one.

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
    tilt_deg = _tilt_range_deg(board, solution.calibration, views)
    if tilt_deg < LEAST_TILT_DEG:
        raise BoardError(UNDETERMINED)
    quality = tuple(_quality(problem, solution, view) for view in views)
    coverage = [
        _coverage([getattr(view, side) for view in views], size_px) for side, size_px in problem.sizes
    ]
    board_depth_m = float(np.median([q.depth_m for q in quality if q.stereo_px is not None]))
    uncertainty = _uncertainty(problem, views, solution, board_depth_m)
    return StereoResult(
        calibration=solution.calibration,
        rms_px=solution.rms_px,
        rgb_rms_px=solution.rgb_rms_px,
        thermal_rms_px=solution.thermal_rms_px,
        views=tuple(views),
        quality=quality,
        rejected=rejected,
        board_depth_m=board_depth_m,
        rgb_coverage=coverage[0],
        thermal_coverage=coverage[1],
        uncertainty=uncertainty,
        warnings=tuple(_warnings(solution.calibration, views, tilt_deg, coverage, uncertainty)),
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

    def solve_each(self, views: list[View]) -> _Solution:
        """Each camera from all of its views, and the motion between them from those they share."""
        cameras = {}
        for side, size_px in self.sizes:
            seen = [getattr(view, side) for view in views if getattr(view, side) is not None]
            cameras[side] = self.solve_camera(seen, size_px)
        (rgb_rms_px, rgb), (thermal_rms_px, thermal) = cameras["rgb"], cameras["thermal"]
        motion = self.solve_motion(views, rgb, thermal)
        return replace(motion, rgb_rms_px=rgb_rms_px, thermal_rms_px=thermal_rms_px)

    def solve_motion(self, views: list[View], rgb: Camera, thermal: Camera) -> _Solution:
        """The motion between calibrated cameras, from the views that both see."""
        shared = _shared(views)
        rms_px, _, _, _, _, rotation, translation_m, *_, errors_px = cv2.stereoCalibrateExtended(
            [self.board.points_m()] * len(shared),
            [v.rgb for v in shared],
            [v.thermal for v in shared],
            *(rgb.k, rgb.d, thermal.k, thermal.d),
            self.rgb_size_px,
            None,
            None,
            flags=cv2.CALIB_FIX_INTRINSIC,
        )
        views_px = {v.name: float(np.sqrt((e**2).mean())) for v, e in zip(shared, errors_px, strict=True)}
        return _Solution(Calibration(rgb, thermal, rotation, translation_m.ravel()), rms_px, views_px)

    def solve(self, views: list[View]) -> _Solution:
        """As solve_each, then everything together."""
        first = self.solve_each(views)
        refined = self.refine(views, first.calibration)
        motion = self.solve_motion(views, refined.rgb, refined.thermal)
        return replace(motion, rgb_rms_px=first.rgb_rms_px, thermal_rms_px=first.thermal_rms_px)

    def refine(self, views: list[View], start: Calibration) -> Calibration:
        poses = [_rgb_pose(self.board, start, view) for view in views]
        try:
            return bundle.refine(self.board.points_m(), [(v.rgb, v.thermal) for v in views], poses, start)
        except np.linalg.LinAlgError as error:
            raise BoardError(UNDETERMINED) from error


def _shared(views: list[View]) -> list[View]:
    return [view for view in views if view.rgb is not None and view.thermal is not None]


def _check_count(views: list[View], rejected: dict[str, str] | None = None) -> None:
    shared = len(_shared(views))
    if shared >= MIN_VIEWS:
        return
    rgb, thermal = (sum(getattr(view, side) is not None for view in views) for side in ("rgb", "thermal"))
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


def _in_one_order(problem: _Problem, views: list[View]) -> list[View]:
    """Thermal corners numbered as the RGB ones.

    A board that looks the same after a half turn gives each camera one of two orders, and thermal contrast, which
    may be inverted, cannot tell them apart. The cameras are rigidly mounted: in every view the thermal picture of
    the board is turned against the RGB picture by about the same angle. That leaves two choices for all views
    together, a half turn apart, and only one of them agrees with one rigid motion.
    """
    if problem.board.has_one_order:
        return views
    shared = _shared(views)
    angles = np.array([_turn(view) for view in shared])
    common = np.angle(np.exp(2j * angles).sum()) / 2  # -90 to 90 degrees; doubling makes a half turn vanish
    against = {view.name for view, angle in zip(shared, angles, strict=True) if np.cos(angle - common) < 0}

    def half_turned(names: set[str]) -> list[View]:
        return [
            replace(v, thermal=np.ascontiguousarray(v.thermal[::-1])) if v.name in names else v for v in views
        ]

    def error_px(candidate: list[View]) -> float:
        calibration = problem.solve_each(candidate).calibration
        return float(
            np.median([_transfer_error_px(problem.board, calibration, v) for v in _shared(candidate)])
        )

    upright, inverted = half_turned(against), half_turned({view.name for view in shared} - against)
    return inverted if error_px(inverted) < INVERTED_FACTOR * error_px(upright) else upright


def _turn(view: View) -> float:
    """Angle, radians, of the similarity that best maps the RGB points onto the thermal ones."""
    rgb, thermal = ((points - points.mean(axis=0)) @ (1, 1j) for points in (view.rgb, view.thermal))
    return float(np.angle(np.vdot(rgb, thermal)))


# --- which views to believe


def _without_mono_outliers(
    problem: _Problem, views: list[View], side: str, rejected: dict[str, str]
) -> list[View]:
    """The views less those whose points in one camera contradict the others'; adds to `rejected`."""
    size_px = dict(problem.sizes)[side]

    def errors_px(kept: list[View], asked: list[View]) -> np.ndarray:
        _, camera = problem.solve_camera([getattr(v, side) for v in kept], size_px)
        return np.array([pose(problem.board, camera, getattr(v, side))[2] for v in asked])

    seen = [view for view in views if getattr(view, side) is not None]
    if len(seen) < MIN_VIEWS:
        return views
    reason = f"its {side} corners are {{:.1f}} px off what the other views' {side} camera allows (they: {{:.1f}} px)"
    outliers = _outliers(seen, errors_px, reason + ": board bent, blurred or wrongly found")
    rejected.update(outliers)
    return [view for view in views if view.name not in outliers]


def _without_stereo_outliers(problem: _Problem, views: list[View], rejected: dict[str, str]) -> list[View]:
    """The views less those whose two pictures contradict the others' motion; adds to `rejected`."""

    def errors_px(kept: list[View], asked: list[View]) -> np.ndarray:
        calibration = problem.solve_each(kept).calibration
        return np.array([_transfer_error_px(problem.board, calibration, v) for v in asked])

    reason = (
        "its thermal corners are {:.1f} px from where the other views put them from RGB (they: {:.1f} px)"
    )
    outliers = _outliers(
        _shared(views), errors_px, reason + ": board moved between the exposures, or not a pair"
    )
    rejected.update(outliers)
    return [view for view in views if view.name not in outliers]


def _outliers(
    views: list[View], errors_px: Callable[[list[View], list[View]], np.ndarray], reason: str
) -> dict[str, str]:
    """Name -> reason of the views that the others do not predict, worst first.

    errors_px(kept, asked): RMS errors of the views `asked` under a calibration from `kept`. A view is judged by a
    calibration that never saw it: one wrong view of ten bends the common solution to hide itself.
    """
    found = {}
    while len(views) > KEPT_VIEWS:
        worst = int(np.argmax(errors_px(views, views)))
        rest = views[:worst] + views[worst + 1 :]
        *others_px, error_px = errors_px(rest, [*rest, views[worst]])
        if error_px < max(OUTLIER_FACTOR * np.median(others_px), OUTLIER_MIN_PX):
            break
        found[views[worst].name] = reason.format(error_px, np.median(others_px))
        views = rest
    return found


def pose(board: Board, camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The board before one camera: rotation (3, 3), translation (3,) metres and RMS error in pixels.

    Convention: p_camera = rotation @ p_board + translation.
    """
    _, rotation, translation_m = cv2.solvePnP(board.points_m(), points, camera.k, camera.d)
    rotation, translation_m = cv2.Rodrigues(rotation)[0], translation_m.ravel()
    return rotation, translation_m, _rms_px(camera, board.points_m() @ rotation.T + translation_m, points)


def _rgb_pose(board: Board, calibration: Calibration, view: View) -> np.ndarray:
    """(6,) rotation vector and translation, metres, of the board before the RGB camera, from what sees it."""
    if view.rgb is not None:
        rotation, translation_m, _ = pose(board, calibration.rgb, view.rgb)
    else:
        rotation, translation_m, _ = pose(board, calibration.thermal, view.thermal)
        rotation = calibration.rotation.T @ rotation
        translation_m = calibration.rotation.T @ (translation_m - calibration.translation_m)
    return np.concatenate([cv2.Rodrigues(rotation)[0].ravel(), translation_m])


def _transfer_error_px(board: Board, calibration: Calibration, view: View) -> float:
    """RMS distance of a view's thermal points from where its RGB points and the calibration put them."""
    rotation, translation_m, _ = pose(board, calibration.rgb, view.rgb)
    points_m = board.points_m() @ rotation.T + translation_m
    points_m = points_m @ calibration.rotation.T + calibration.translation_m
    return _rms_px(calibration.thermal, points_m, view.thermal)


def _rms_px(camera: Camera, points_m: np.ndarray, points: np.ndarray) -> float:
    projected, _ = lens.project(camera, points_m)
    return float(np.sqrt(((projected - points) ** 2).sum(axis=1).mean()))


# --- how good the answer is


def _quality(problem: _Problem, solution: _Solution, view: View) -> ViewQuality:
    board, calibration = problem.board, solution.calibration
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
        stereo_px=solution.views_px.get(view.name),
        depth_m=float(centre_m[2]),
        tilt_deg=float(np.degrees(np.arccos(min(abs(rotation[2, 2]), 1.0)))),
    )


def _tilt_range_deg(board: Board, calibration: Calibration, views: list[View]) -> float:
    """The largest angle between the planes of two boards that both cameras see."""
    turns = [_rgb_pose(board, calibration, view)[:3] for view in _shared(views)]
    normals = np.array([cv2.Rodrigues(turn)[0][:, 2] for turn in turns])
    return float(np.degrees(np.arccos(np.clip(normals @ normals.T, -1, 1).min())))


def _coverage(points: list[np.ndarray | None], size_px: Size) -> float:
    """Share of the image inside the outline of at least one board."""
    return float((covered(points, size_px) > 0).mean())


def covered(points: list[np.ndarray | None], size_px: Size) -> np.ndarray:
    """(H, W) uint8: 255 inside the outline of at least one board."""
    mask = np.zeros(size_px[::-1], np.uint8)
    for corners in points:
        if corners is not None:
            cv2.fillConvexPoly(mask, cv2.convexHull(corners).round().astype(np.int32), 255)
    return mask


def _uncertainty(
    problem: _Problem, views: list[View], solution: _Solution, board_depth_m: float
) -> Uncertainty | None:
    """Delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11) over the shared views."""
    shared = _shared(views)
    if len(shared) <= MIN_VIEWS + 1:
        return None
    groups = min(GROUPS, len(shared))
    refits = []
    for group in range(groups):
        left_out = {view.name for view in shared[group::groups]}
        kept = [view for view in views if view.name not in left_out]
        refits.append(problem.refine(kept, solution.calibration))

    def deviation(values: list) -> float:
        """RMS over whatever the values hold, of the length of their last axis."""
        values = np.array(values)
        difference = values - values.mean(axis=0)
        return float(np.sqrt((groups - 1) * (difference**2).sum(axis=-1).mean()))

    def turn(calibration: Calibration) -> np.ndarray:
        return cv2.Rodrigues(calibration.rotation @ solution.calibration.rotation.T)[0].ravel()

    return Uncertainty(
        rgb_focal_px=deviation([[c.rgb.k[0, 0]] for c in refits]),
        thermal_focal_px=deviation([[c.thermal.k[0, 0]] for c in refits]),
        rotation_deg=float(np.degrees(deviation([turn(c) for c in refits]))),
        translation_m=deviation([c.translation_m for c in refits]),
        board_px=deviation(_thermal_positions(solution.calibration, refits, board_depth_m)),
        far_px=deviation(_thermal_positions(solution.calibration, refits, FAR * board_depth_m)),
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


def _warnings(calibration, views, tilt_deg, coverage, uncertainty) -> Iterator[str]:
    shared = _shared(views)
    if len(shared) < ENOUGH_VIEWS:
        yield f"only {len(shared)} views show the board to both cameras: take {ENOUGH_VIEWS} to 30"
    if tilt_deg < ENOUGH_TILT_DEG:
        yield (
            f"the boards' tilts differ by no more than {tilt_deg:.0f} degrees, so focal length and distance can hardly "
            "be told apart: tilt it by 30 to 45 degrees to the left, right, top and bottom"
        )
    for side, share in zip(("RGB", "thermal"), coverage, strict=True):
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
