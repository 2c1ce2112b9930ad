"""Calibration without a board: recorded pairs of one rig, aligned one by one and then together.

The result is a homography, right for scenes about as far away as those recorded; or, where both cameras are
calibrated already, a correction of the rotation between them. The translation is left as it is: at depth z it
moves the picture by f * t / z pixels, which for scenes of one depth is the same motion as a rotation, and what
the spread of depths in a scene adds is below the precision of matches between unlike pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusionproxy_ros.alignment.align_images import (
    Alignment,
    Matches,
    Stage,
    align,
    align_jointly,
    checked_pairs,
    confidence,
    corner_distance_px,
    joined,
    match_patches,
    shrunk,
    vote,
    working_scale,
)
from fusionproxy_ros.alignment.edges import masked_gradients, oriented_gradients
from fusionproxy_ros.core.pictures import captioned
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.lens import Size, scaled
from fusionproxy_ros.geometry.registration import Registration, extrinsic

CONFIDENT = 0.5  # pairs below have no say in the common result
SAME = 0.02  # of the picture's width: homographies nearer than this support each other
TURNS = Stage(4, 32, 8, 6.0), Stage(2, 48, 8, 5.0), Stage(1, 64, 8, 4.0), Stage(1, 64, 8, 2.0)
CHECKER_PX = 64
RecordedPairs = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Scenes:
    """pairs: each pair's own alignment. used: indices of the pairs that made `joint`, the one for all of them;
    empty where no pair was confident: `joint` is then the best pair's, and its confidence is low."""

    pairs: tuple[Alignment, ...]
    used: tuple[int, ...]
    joint: Alignment


@dataclass(frozen=True, eq=False)
class Turned:
    """A calibration whose rotation was corrected, and how far to trust that.

    calibration: the given one, where no pair was confident. turn_deg: (3,) the correction as a rotation vector in
    the RGB optical frame, degrees. confidence: 0..1. confidences: of each pair, in the correction all agreed on.
    used: indices of the pairs that made the result.
    """

    calibration: Calibration
    turn_deg: np.ndarray
    confidence: float
    confidences: tuple[float, ...]
    used: tuple[int, ...]


def common_homography(pairs: RecordedPairs) -> Scenes:
    """One homography from recorded pairs (rgb_luma, thermal) of one rig; pictures as `align` takes them.

    The confident pair that most others support is the start; then the patches of all confident pairs vote on one
    homography, which averages the scenes' depths and the noise of single pictures.

    Convention:
        frame: image planes, at the recorded sizes.
        pixels: centres at integers.
        direction: thermal (x, y, 1) -> RGB.
    Raises AlignmentError for no pair, pictures of another kind or unequal sizes.
    """
    pairs = checked_pairs(pairs)
    alignments = tuple(align(rgb, thermal) for rgb, thermal in pairs)
    used = tuple(i for i, one in enumerate(alignments) if one.confidence >= CONFIDENT)
    if not used:
        return Scenes(alignments, used, max(alignments, key=lambda one: one.confidence))
    start = _best_supported([alignments[i] for i in used], pairs[0][0].shape[::-1])
    return Scenes(alignments, used, align_jointly([pairs[i] for i in used], start))


def correct_rotation(pairs: RecordedPairs, calibration: Calibration, plane_depth_m: float) -> Turned:
    """Correct the rotation between two calibrated cameras from recorded pairs (rgb_luma, thermal).

    pairs: as `common_homography`. calibration: its rotation off by so little that pictures come to lie within 30 px at
        WORK_PX: about 3 degrees for a view 60 degrees wide. plane_depth_m: how far away the scenes mostly are;
        there the result fits, whatever the translation's error.

    Convention:
        frame: optical frames; p_thermal = rotation @ p_rgb + translation_m.
        pixels: centres at integers.
        direction: the result's rotation is the given one times the turn, rotation @ exp([turn]x).
    Raises AlignmentError as `common_homography`, RegistrationError as `extrinsic`.
    """
    pairs = checked_pairs(pairs)
    corrected, confidences, _ = _turned(pairs, calibration, plane_depth_m)
    used = tuple(i for i, one in enumerate(confidences) if one >= CONFIDENT)
    if not used:
        return Turned(calibration, np.zeros(3), max(confidences), confidences, used)
    corrected, _, joint = _turned([pairs[i] for i in used], corrected, plane_depth_m)
    turn, _ = cv2.Rodrigues(calibration.rotation.T @ corrected.rotation)
    return Turned(corrected, np.degrees(turn.ravel()), joint, confidences, used)


def checkerboard_overlay(
    rgb_luma: np.ndarray, thermal: np.ndarray, before: Registration, after: Registration
) -> np.ndarray:
    """A picture a person can judge: (2 (H + LINE_PX), 2 W, 3) uint8, RGB order; left before, right after.

    Above, outlines: RGB green, thermal red, yellow where they meet. Below, a checkerboard of both pictures:
    outlines must run on across its fields.
    rgb_luma: (H, W) uint8. thermal: (h, w) uint8, uint16 or float32. Raises as `Registration.register`.
    """
    [(rgb, thermal)] = checked_pairs([(rgb_luma, thermal)])
    columns = []
    for title, registration in (("before", before), ("after", after)):
        moved = registration.register(thermal, rgb.shape[::-1])
        mask = np.ones(rgb.shape, bool) if moved.mask is None else moved.mask
        outlines = (
            _outlines(oriented_gradients(moved.pixels) * mask[..., None]),
            _outlines(oriented_gradients(rgb)),
        )
        columns.append(
            [
                captioned(np.dstack([*outlines, np.zeros_like(outlines[0])]), f"{title}: outlines"),
                captioned(_checkerboard(rgb, moved.pixels, mask), f"{title}: checkerboard"),
            ]
        )
    return np.hstack([np.vstack(column) for column in columns])


# --- homography


def _best_supported(alignments: Sequence[Alignment], rgb_size_px: Size) -> np.ndarray:
    """The homography that most confidence lies near to."""

    def support(h):
        return sum(
            one.confidence
            for one in alignments
            if corner_distance_px(h, one.homography, rgb_size_px) <= SAME * rgb_size_px[0]
        )

    return max((one.homography for one in alignments), key=support)


# --- rotation


def _turned(
    pairs: RecordedPairs, calibration: Calibration, plane_depth_m: float
) -> tuple[Calibration, tuple[float, ...], float]:
    """The calibration with its rotation corrected by all patches; the confidence of each pair and of all in it."""
    for stage in TURNS:
        registration = extrinsic(calibration, plane_depth_m)
        parts = [_matches(*pair, calibration, registration, stage) for pair in pairs]
        matches = joined(parts)
        small, _ = shrunk(pairs[0][0], working_scale(pairs[0][0], stage.reduction))
        basis = _turn_basis(scaled(calibration.rgb, small.shape[::-1], "rgb"), matches.centres_px)
        turn = vote(matches, basis, stage.sigma_px)
        # What was found at u + basis @ turn belongs at u: the ray through u must go where that one went.
        calibration = replace(calibration, rotation=calibration.rotation @ cv2.Rodrigues(turn)[0])
    each = (confidence(*one, turn) for one in zip(parts, np.split(basis, len(pairs)), strict=True))
    return calibration, tuple(each), confidence(matches, basis, turn)


def _matches(
    rgb: np.ndarray, thermal: np.ndarray, calibration: Calibration, registration: Registration, stage: Stage
) -> Matches:
    """Patches of one pair, the thermal picture registered; both first made as small as the stage wants them."""
    scale = working_scale(rgb, stage.reduction)
    pixels_per_radian = [
        camera.k[0, 0] * image.shape[1] / camera.width_px
        for camera, image in ((calibration.rgb, rgb), (calibration.thermal, thermal))
    ]
    thermal, _ = shrunk(thermal, scale * pixels_per_radian[0] / pixels_per_radian[1])
    rgb, _ = shrunk(rgb, scale)
    moved = registration.register(thermal, rgb.shape[::-1])
    real = np.ones(rgb.shape, np.uint8) if moved.mask is None else moved.mask.astype(np.uint8)
    fields = oriented_gradients(rgb), masked_gradients(moved.pixels, real)
    return match_patches(*fields, stage.patch_px, stage.radius_px)


def _turn_basis(rgb: Camera, pixels: np.ndarray) -> np.ndarray:
    """(N, 2, 3) motion of pixels (N, 2) per radian as their rays turn about the RGB frame's axes.

    Lens distortion is left out: it only bends the way to a solution that exact registration then confirms.
    """
    x, y = ((pixels - rgb.k[:2, 2]) / np.diag(rgb.k)[:2]).T
    rows = np.stack([-x * y, 1 + x * x, -y], -1), np.stack([-1 - y * y, x * y, x], -1)
    return np.diag(rgb.k)[:2, None] * np.stack(rows, 1)


# --- picture


def _outlines(gradients: np.ndarray) -> np.ndarray:
    return np.clip(100 * np.linalg.norm(gradients, axis=-1), 0, 255).astype(np.uint8)


def _checkerboard(rgb: np.ndarray, thermal: np.ndarray, mask: np.ndarray) -> np.ndarray:
    low, high = np.percentile(thermal, (1, 99))
    stretched = np.clip((thermal - low) * (255 / max(high - low, 1e-6)), 0, 255)
    y, x = np.indices(rgb.shape) // CHECKER_PX
    luma = np.where(((x + y) % 2 == 1) & mask, stretched, rgb)
    return np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)
