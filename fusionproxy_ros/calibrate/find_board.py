"""Finding the board's points in one picture, thermal or RGB."""

from collections.abc import Iterator

import cv2
import numpy as np

from fusionproxy_ros.calibrate.board import Board

# Search: images are brought to the first length of their longer side, so that every camera's board looks alike, then,
# if that finds none and they have so many pixels, to the second.
SEARCH_SIDES_PX = (640, 1280)
MAX_ENLARGEMENT = 4.0  # of a 160x120 thermal core
CONTRAST_SIGMAS_PX = (12.0, 6.0)  # about half a square; 24 found nothing that these did not
SUBPIX_WINDOW = 0.3  # half-width of the refinement window, of the distance between corners
SUBPIX_MAX_PX = 11
MAX_WARP = 0.35  # how far a corner may lie off a plane's homography, of the distance between corners: lens distortion


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
