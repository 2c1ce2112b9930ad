"""Bundle adjustment of two cameras and one board: everything together, from every view that either camera has.

cv2.stereoCalibrate can refine intrinsics too, but only from shared views, and on exact simulated boards its optimiser
stops early or goes astray (0.18 to 0.26 px RMS from one start, in 0.5 s; this one reaches 0.178 px in 0.05 s).
"""

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from scipy.optimize import least_squares

from fusionproxy_ros.geometry.camera import Calibration, Camera

INTRINSICS = 6  # fx, fy, cx, cy, k1, k2
# What is known of real cameras, one standard deviation each. A few views leave the principal point and the rotation
# between the cameras to trade against each other; these keep it near the middle until the views say otherwise.
CENTRE_SIGMA = 0.02  # of the image width
ASPECT_SIGMA = 0.005  # fx / fy
K2_SIGMA = 0.05  # of the radius in the image corner
PRIOR_PX = 1.0  # a deviation of one sigma weighs as much as one corner that is one pixel off
MAX_STEPS = 50
CONVERGED = 1e-6  # a step of so much of the unknowns, which are mostly focal lengths and centres in pixels

# Columns of cv2.projectPoints's Jacobian: rotation 3, translation 3, focal lengths 2, centre 2, distortion.
_POSE, _LENS = slice(0, 6), slice(6, 12)


def adjust(
    points_m: np.ndarray,
    views: list[tuple[np.ndarray | None, np.ndarray | None]],
    poses: list[np.ndarray],
    start: Calibration,
) -> Calibration:
    """The likeliest calibration near `start`: least squares of pixel errors and, gently, of the priors above.

    points_m: (N, 3) on the board. views: (N, 2) pixels in the RGB and the thermal image, or None. poses: (6,) per
    view, rotation vector and translation of the board before the RGB camera, to start from.
    Lens: two radial coefficients; the others come out as zero.

    Raises np.linalg.LinAlgError where the views do not determine the answer.

    Convention:
        frame: optical frames, x right, y down, z forward; p_rgb = pose of p_board.
        pixels: centres at integers.
        direction: p_thermal = rotation @ p_rgb + translation_m.
    """
    state = np.concatenate(
        [
            _intrinsics(start.rgb),
            _intrinsics(start.thermal),
            cv2.Rodrigues(start.rotation)[0].ravel(),
            start.translation_m,
            *poses,
        ]
    )
    prior, target = _priors(start.rgb, start.thermal, len(state))

    @lru_cache(maxsize=1)  # the solver asks for the residuals, then for the Jacobian of the same state
    def condensed(at: bytes) -> tuple[np.ndarray, np.ndarray]:
        state = np.frombuffer(at)
        cost, normal, gradient = _linearised(points_m, views, state)
        residual = prior @ state - target
        return _square_root_form(
            cost + residual @ residual, normal + prior.T @ prior, gradient + prior.T @ residual
        )

    def residuals(state: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return condensed(state.tobytes())[0]
        except np.linalg.LinAlgError:  # a step too far: the solver refuses what is not finite
            return np.full(len(state) + 1, np.inf)

    def jacobian(state: np.ndarray) -> np.ndarray:
        return condensed(state.tobytes())[1]

    condensed(state.tobytes())  # raises where the start already determines nothing
    found = least_squares(residuals, state, jacobian, x_scale="jac", xtol=CONVERGED, max_nfev=MAX_STEPS).x
    return Calibration(
        _camera(start.rgb, found[:6]),
        _camera(start.thermal, found[6:12]),
        cv2.Rodrigues(found[12:15])[0],
        found[15:18],
    )


def _square_root_form(cost: float, normal: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n + 1 residuals of n unknowns, and their Jacobian: as good as those of all pixels, for their sums are the same.

    The solver decomposes its Jacobian in every step. That of all pixels has some thousand rows, in which a view's
    know nothing of the other views' poses; without them 40 views take a quarter of the time.
    """
    upper = np.linalg.cholesky(normal).T
    residual = np.linalg.solve(upper.T, gradient)
    rest = max(cost - float(residual @ residual), 0.0) ** 0.5  # what no step removes
    return np.append(residual, rest), np.vstack([upper, np.zeros(len(gradient))])


def _priors(rgb: Camera, thermal: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear residuals prior @ state - target, in pixels' worth, of both cameras' intrinsics."""
    rows, targets = [], []
    for first, camera in ((0, rgb), (INTRINSICS, thermal)):
        fx, fy, cx, cy, _, k2 = range(first, first + INTRINSICS)
        width_px, height_px, focal_px = camera.width_px, camera.height_px, camera.k[0, 0]
        corner = np.hypot(width_px, height_px) / 2 / focal_px
        for weights, target in (
            ({cx: 1 / (CENTRE_SIGMA * width_px)}, (width_px - 1) / 2 / (CENTRE_SIGMA * width_px)),
            ({cy: 1 / (CENTRE_SIGMA * width_px)}, (height_px - 1) / 2 / (CENTRE_SIGMA * width_px)),
            ({fx: 1 / (ASPECT_SIGMA * focal_px), fy: -1 / (ASPECT_SIGMA * focal_px)}, 0.0),
            ({k2: corner**4 / K2_SIGMA}, 0.0),
        ):
            row = np.zeros(size)
            row[list(weights)] = list(weights.values())
            rows.append(row)
            targets.append(target)
    return PRIOR_PX * np.array(rows), PRIOR_PX * np.array(targets)


def _intrinsics(camera: Camera) -> np.ndarray:
    return np.array([camera.k[0, 0], camera.k[1, 1], camera.k[0, 2], camera.k[1, 2], *camera.d[:2]])


def _matrix(intrinsics: np.ndarray) -> np.ndarray:
    fx, fy, cx, cy = intrinsics[:4]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _camera(camera: Camera, intrinsics: np.ndarray) -> Camera:
    return replace(camera, k=_matrix(intrinsics), d=np.concatenate([intrinsics[4:], np.zeros(3)]))


def _linearised(
    points_m: np.ndarray, views: list[tuple[np.ndarray | None, np.ndarray | None]], state: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of squares, and the normal matrix J.T @ J and gradient J.T @ r of all residuals, pixels.

    Jacobians by cv2.projectPoints and cv2.composeRT.
    """
    rgb, thermal, motion = np.arange(0, 6), np.arange(6, 12), np.arange(12, 18)
    cost, normal, gradient = 0.0, np.zeros((len(state), len(state))), np.zeros(len(state))

    def add(observed: np.ndarray, projected: np.ndarray, jacobian: np.ndarray, columns: np.ndarray) -> None:
        nonlocal cost
        residual = (projected.reshape(-1, 2) - observed).ravel()
        cost += residual @ residual
        normal[np.ix_(columns, columns)] += jacobian.T @ jacobian
        gradient[columns] += jacobian.T @ residual

    for i, (rgb_points, thermal_points) in enumerate(views):
        pose = np.arange(18 + 6 * i, 24 + 6 * i)
        if rgb_points is not None:
            projected, jacobian = _project(points_m, state[pose], state[rgb])
            add(rgb_points, projected, jacobian, np.concatenate([pose, rgb]))
        if thermal_points is not None:
            there, by_pose, by_motion = _composed(state[pose], state[motion])
            projected, jacobian = _project(points_m, there, state[thermal])
            chained = np.hstack(
                [jacobian[:, _POSE] @ by_pose, jacobian[:, _POSE] @ by_motion, jacobian[:, _LENS]]
            )
            add(thermal_points, projected, chained, np.concatenate([pose, motion, thermal]))
    return cost, normal, gradient


def _project(points_m: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and their (2 N, 12) Jacobian by pose and intrinsics."""
    distortion = np.array([*intrinsics[4:], 0.0, 0.0])
    projected, jacobian = cv2.projectPoints(points_m, pose[:3], pose[3:], _matrix(intrinsics), distortion)
    return projected, jacobian[:, :12]


def _composed(first: np.ndarray, then: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pose `then` after `first`, and its (6, 6) derivatives by both."""
    rotation, translation, *d = cv2.composeRT(first[:3], first[3:], then[:3], then[3:])
    by_first = np.block([[d[0], d[1]], [d[4], d[5]]])
    by_then = np.block([[d[2], d[3]], [d[6], d[7]]])
    return np.concatenate([rotation, translation]).ravel(), by_first, by_then
