"""A flat calibration board, the views of it, and where a view says that it stood.

Pixel centres are at integer coordinates; the corners of a view are (N, 2) float32 pixels, row by row of the board.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.geometry import lens
from fusionproxy_ros.geometry.camera import Calibration, Camera

PATTERNS = ("checkerboard", "circles", "asymmetric_circles")


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
class BoardView:
    """One exposure of the board by both cameras.

    rgb, thermal: (N, 2) float32 pixels in the board's order, or None where that camera does not show the board.
    """

    name: str
    rgb: np.ndarray | None
    thermal: np.ndarray | None

    def corners(self, side: str) -> np.ndarray | None:
        """side: "rgb" or "thermal"."""
        return self.rgb if side == "rgb" else self.thermal


@dataclass(frozen=True, eq=False)
class SharedView(BoardView):
    """A view in which both cameras show the board."""

    rgb: np.ndarray
    thermal: np.ndarray


def shared_views(views: Iterable[BoardView]) -> list[SharedView]:
    """The views that both cameras see."""
    return [
        SharedView(view.name, view.rgb, view.thermal)
        for view in views
        if view.rgb is not None and view.thermal is not None
    ]


def corners_in(views: Iterable[BoardView], side: str) -> list[np.ndarray]:
    """The corners in one camera, "rgb" or "thermal", of the views that it sees."""
    return [corners for view in views if (corners := view.corners(side)) is not None]


def pose(board: Board, camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The board before one camera: rotation (3, 3), translation (3,) metres and RMS error in pixels.

    Convention: p_camera = rotation @ p_board + translation.
    """
    _, rotation, translation_m = cv2.solvePnP(board.points_m(), points, camera.k, camera.d)
    rotation, translation_m = cv2.Rodrigues(rotation)[0], translation_m.ravel()
    return rotation, translation_m, rms_px(camera, board.points_m() @ rotation.T + translation_m, points)


def rgb_pose(board: Board, calibration: Calibration, view: BoardView) -> np.ndarray:
    """(6,) rotation vector and translation, metres, of the board before the RGB camera, from what sees it."""
    if view.rgb is not None:
        rotation, translation_m, _ = pose(board, calibration.rgb, view.rgb)
    else:
        assert view.thermal is not None, "a view shows the board to at least one camera"
        rotation, translation_m, _ = pose(board, calibration.thermal, view.thermal)
        rotation = calibration.rotation.T @ rotation
        translation_m = calibration.rotation.T @ (translation_m - calibration.translation_m)
    return np.concatenate([cv2.Rodrigues(rotation)[0].ravel(), translation_m])


def transfer_error_px(board: Board, calibration: Calibration, view: SharedView) -> float:
    """RMS distance of a view's thermal points from where its RGB points and the calibration put them."""
    rotation, translation_m, _ = pose(board, calibration.rgb, view.rgb)
    points_m = board.points_m() @ rotation.T + translation_m
    points_m = points_m @ calibration.rotation.T + calibration.translation_m
    return rms_px(calibration.thermal, points_m, view.thermal)


def rms_px(camera: Camera, points_m: np.ndarray, points: np.ndarray) -> float:
    """RMS distance of pixels (N, 2) from where the camera sees the points (N, 3) of its own frame."""
    projected, _ = lens.project(camera, points_m)
    return float(np.sqrt(((projected - points) ** 2).sum(axis=1).mean()))
