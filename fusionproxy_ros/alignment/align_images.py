"""Where a thermal picture lies on an RGB picture of the same scene, found in the pictures alone.

What both cameras see are outlines. Their contrast may be inverted and their strength differs, so pictures are
compared by the orientation of their gradients, coarse to fine: a search over scale, aspect and shift, then a
grid of patches whose match surfaces vote for an affine motion and at last for a homography.

Measured on 24 raw road frames: 0.5 s a pair on one core; under a known change of the thermal picture the answer
follows to 0.1 px (median of mean corner errors); 24 pairs of unrelated frames score a confidence of 0.0.

Everywhere in this module pixel centres are at integer coordinates (OpenCV, ROS). A size is (width, height), an
array is (H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.alignment.edges import masked_gradients, oriented_gradients
from fusionproxy_ros.core.errors import FusionError

WORK_PX = 560  # longer side at which pictures are compared: thermal outlines are seldom finer
MIN_SIDE_PX = 64
SEARCH_REDUCTION = 4  # of the working size
SCALE_STEP, ASPECT_STEP = 1.065, 1.06  # half a step moves the picture's rim by 2 px at the search's size
WIDE, NARROW, ASPECTS = 9, 2, 2  # steps to either side: scales without and with a guess, aspects
SEARCH_MARGIN = 0.4  # of the RGB picture's sides: how far the search shifts it over the thermal picture
CANDIDATES = 4
DISTINCT = 0.05  # of the picture's width, mean over corners: nearer candidates are one
THIN = 0.3  # of the strongest window's energy: a match with less texture than that does not count more
VOTES = 12  # iterations
SHARPNESS = 30.0  # a match better by 0.1 in correlation is e^3 times as likely
FINAL_SIGMA_PX = 1.0
DAMPING = 1e-3  # against one patch's weight: keeps the motion defined where nothing votes
AGREE_PX = 2.0
EVEN_ODDS = 0.1  # the agreement above chance at which to bet on an alignment neither way
AFFINE, HOMOGRAPHY = 6, 8  # degrees of freedom


@dataclass(frozen=True)
class Stage:
    """One round of voting.

    reduction: of the working size. patch_px, radius_px: patch side and search radius, reduced pixels.
    sigma_px: how far patches may at first stray from the common motion. dof: of that motion, where it is a
        homography: AFFINE or HOMOGRAPHY.
    """

    reduction: int
    patch_px: int
    radius_px: int
    sigma_px: float
    dof: int = HOMOGRAPHY


STAGES = (
    Stage(2, 48, 8, 5.0, AFFINE),
    Stage(1, 64, 8, 5.0),
    Stage(1, 64, 8, 2.0),
)


class AlignmentError(FusionError):
    """The pictures cannot be compared. The message names the cause and the cure."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A homography and how far to trust it.

    homography: (3, 3) float64, thermal (x, y, 1) -> RGB, homography[2, 2] == 1.
    confidence: 0..1, see `confidence`. Unrelated pictures stay below 0.1.
    """

    homography: np.ndarray
    confidence: float


@dataclass(frozen=True, eq=False)
class Matches:
    """How well each patch of an RGB picture matches the thermal picture around the same place.

    centres_px: (N, 2) patch centres (x, y) in the RGB picture.
    surfaces: (N, 2r+1, 2r+1) float64, normalised correlation -1..1 at thermal offsets (dx, dy) = -r..r px.
    weights: (N,) float64, texture of the patch in both pictures, 0 where one has none.
    """

    centres_px: np.ndarray
    surfaces: np.ndarray
    weights: np.ndarray


def align(rgb_luma: np.ndarray, thermal: np.ndarray, guess: np.ndarray | None = None) -> Alignment:
    """Align one thermal picture with one RGB picture.

    rgb_luma: (H, W) uint8. thermal: (h, w) uint8, uint16 or float32; pixels that are not finite count as the
        median. Both at least MIN_SIDE_PX on each side.
    guess: (3, 3), off by at most 10 % in scale and aspect and 40 % of the picture's sides in shift; None for
        `centred_guess`, with scales from 0.57 to 1.76 times its own.

    Convention:
        frame: image planes, at the sizes of the two arrays.
        pixels: centres at integers.
        direction: thermal (x, y, 1) -> RGB, for guess and result.
    Raises AlignmentError for pictures of another kind and for a guess that is no (3, 3) regular matrix.
    """
    rgb, thermal = _checked(rgb_luma, "RGB"), _checked(thermal, "thermal")
    wide = guess is None
    start = centred_guess(_size(thermal), _size(rgb)) if guess is None else _checked_guess(guess)
    pairs = [(rgb, thermal)]
    tried = [_voted(pairs, h, STAGES[:1]) for h in _candidates(rgb, thermal, start, WIDE if wide else NARROW)]
    best = max(tried, key=lambda one: one.confidence)
    return _voted(pairs, best.homography, STAGES[1:])


def align_jointly(pairs: Sequence[tuple[np.ndarray, np.ndarray]], start: np.ndarray) -> Alignment:
    """One homography for several pictures (rgb_luma, thermal) of the same two cameras, as `align` takes them.

    start: (3, 3), thermal -> RGB, right to about 15 px at WORK_PX. The patches of all pictures vote together.
    Convention: as `align`. Raises AlignmentError as `align` does, for no pair, and for unequal sizes.
    """
    return _voted(checked_pairs(pairs), _checked_guess(start), STAGES)


def checked_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs in float32 with every pixel finite. Raises AlignmentError as `align_jointly` does."""
    if not pairs:
        raise AlignmentError("there is no pair of pictures to align: give at least one")
    checked = [(_checked(rgb, "RGB"), _checked(thermal, "thermal")) for rgb, thermal in pairs]
    if len({(rgb.shape, thermal.shape) for rgb, thermal in checked}) > 1:
        raise AlignmentError(
            "the pairs differ in picture size: give pairs recorded in one mode of both cameras"
        )
    return checked


def centred_guess(thermal_size_px: tuple[int, int], rgb_size_px: tuple[int, int]) -> np.ndarray:
    """(3, 3) thermal -> RGB: the thermal picture, its shape kept, just covers the RGB picture, centres coinciding."""
    thermal, rgb = np.array(thermal_size_px), np.array(rgb_size_px)
    scale = (rgb / thermal).max()
    shift = (rgb - 1) / 2 - scale * (thermal - 1) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def match_patches(rgb: np.ndarray, thermal: np.ndarray, patch_px: int, radius_px: int) -> Matches:
    """Correlate half-overlapping patches of one field with the other around the same place.

    rgb, thermal: (H, W, 2) `oriented_gradients` of two pictures on one grid, 0 where there is no pixel.
    """
    width, height = _size(rgb)
    patch_px = min(patch_px, 2 * min(width, height) // 3)  # at least two by two of them
    r, count = radius_px, 2 * radius_px + 1
    thermal = cv2.copyMakeBorder(thermal, r, r, r, r, cv2.BORDER_CONSTANT)
    thermal_energy, rgb_energy = (_window_energy(field, (patch_px, patch_px)) for field in (thermal, rgb))
    x0s, y0s = (
        np.linspace(0, side - patch_px, max(2 * side // patch_px - 1, 1)).astype(int)
        for side in (width, height)
    )
    surfaces, weights = [], []
    floor = 1e-3 * patch_px**2
    for y0 in y0s:
        for x0 in x0s:
            patch = rgb[y0 : y0 + patch_px, x0 : x0 + patch_px]
            window = thermal[y0 : y0 + patch_px + 2 * r, x0 : x0 + patch_px + 2 * r]
            energy = thermal_energy[y0 : y0 + count, x0 : x0 + count]
            own = rgb_energy[y0, x0]
            product = cv2.matchTemplate(window, np.ascontiguousarray(patch), cv2.TM_CCORR)
            surfaces.append(product / np.sqrt((energy + floor) * (own + floor)))
            weights.append((own * energy[r, r]) ** 0.25 / patch_px)
    centres = np.stack(np.meshgrid(x0s, y0s), -1).reshape(-1, 2) + (patch_px - 1) / 2
    return Matches(centres, np.array(surfaces, np.float64), np.array(weights, np.float64))


def vote(matches: Matches, basis: np.ndarray, sigma_px: float) -> np.ndarray:
    """(K,) the motion that most patches agree on.

    basis: (N, 2, K), the offset of each patch in pixels per unit of each of K motion parameters.
    sigma_px: how far patches may at first stray from the motion; it falls to FINAL_SIGMA_PX.

    Each patch keeps its whole surface, so that one along a straight edge pulls across the edge only. The
    solution is expectation-maximisation as in coherent point drift (Myronenko and Song 2010): a patch's expected
    offset under its surface and the present motion, then least squares on these.
    """
    likelihood, offsets = _likelihood(matches)
    weighted = matches.weights[:, None, None] * basis
    normal = np.einsum("npk,npl->kl", weighted, basis)
    normal += DAMPING * np.diag(np.square(basis).sum((0, 1)) / len(basis))
    motion = np.zeros(basis.shape[2])
    for k in range(VOTES):
        sigma = max(sigma_px * 0.85**k, FINAL_SIGMA_PX)
        expected = _softmax(likelihood - _squares(offsets, basis @ motion) / (2 * sigma**2)) @ offsets
        motion = np.linalg.solve(normal, np.einsum("npk,np->k", weighted, expected))
    return motion


def confidence(matches: Matches, basis: np.ndarray, motion: np.ndarray) -> float:
    """0..1 that a motion (K,), with the basis of `vote`, is right, from what each patch says alone.

    It grows with the share of texture whose own match lies within AGREE_PX of the motion, less what chance puts
    there and what fitting does: K numbers can please K / 2 patches, and half-overlapping patches say everything
    at least twice. Nothing left gives 0, EVEN_ODDS gives 0.5, half the texture 0.96.
    """
    likelihood, offsets = _likelihood(matches)
    near = _squares(offsets, basis @ motion) <= AGREE_PX**2
    weights = matches.weights / max(matches.weights.sum(), 1e-9)
    share = weights @ (_softmax(likelihood) * near).sum(1)
    by_chance = np.pi * AGREE_PX**2 / len(offsets) + len(motion) * np.square(weights).sum()
    above = max(share - by_chance, 0.0)
    return float(above**2 / (above**2 + EVEN_ODDS**2))


def _likelihood(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each patch's offsets, (N, M), and these offsets, (M, 2)."""
    r = matches.surfaces.shape[1] // 2
    offsets = np.stack(np.meshgrid(np.arange(-r, r + 1), np.arange(-r, r + 1)), -1).reshape(-1, 2)
    return SHARPNESS * matches.surfaces.reshape(len(matches.surfaces), -1), offsets


def _squares(offsets: np.ndarray, moves_px: np.ndarray) -> np.ndarray:
    """(N, M) squared distances."""
    return np.square(offsets - moves_px[:, None]).sum(-1)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# --- coarse: one correlation for each scale and aspect


def _candidates(rgb: np.ndarray, thermal: np.ndarray, start: np.ndarray, scales: int) -> list[np.ndarray]:
    """The best few distinct homographies among `start` scaled, stretched about the picture's centre and shifted."""
    rgb, reduce, thermal, moved = _reduced(rgb, thermal, start, SEARCH_REDUCTION)
    width, height = _size(rgb)
    template = oriented_gradients(rgb)
    margin = [round(SEARCH_MARGIN * side) for side in (width, height)]
    canvas_px = width + 2 * margin[0], height + 2 * margin[1]
    centre = _translation((width - 1) / 2, (height - 1) / 2)
    found = []
    for scale in SCALE_STEP ** np.arange(-scales, scales + 1):
        for aspect in ASPECT_STEP ** np.arange(-ASPECTS, ASPECTS + 1):
            stretch = np.diag([scale / aspect**0.5, scale * aspect**0.5, 1])
            h = centre @ stretch @ np.linalg.inv(centre) @ moved
            score, shift = _best_shift(_features(thermal, _translation(*margin) @ h, canvas_px), template)
            found.append((score, _translation(*(margin - shift)) @ h))
    found.sort(key=lambda one: -one[0])
    distinct: list[np.ndarray] = []
    for _, h in found:
        if all(corner_distance_px(h, other, (width, height)) > DISTINCT * width for other in distinct):
            distinct.append(h)
    back = np.linalg.inv(reduce)
    return [back @ h @ np.linalg.inv(moved) @ reduce @ start for h in distinct[:CANDIDATES]]


def _best_shift(canvas: np.ndarray, template: np.ndarray) -> tuple[float, np.ndarray]:
    """Highest normalised correlation of the template in the canvas, and its place (x, y) there."""
    energy = _window_energy(canvas, _size(template))
    norm = np.sqrt(np.square(template).sum() * np.maximum(energy, THIN * energy.max()) + 1e-9)
    _, score, _, shift = cv2.minMaxLoc(cv2.matchTemplate(canvas, template, cv2.TM_CCORR) / norm)
    return score, np.array(shift)


# --- fine: patches vote


def _voted(pairs, h: np.ndarray, stages: Sequence[Stage]) -> Alignment:
    """h after the votes of all pairs' patches, and the confidence after the last."""
    for stage in stages:
        parts = []
        for rgb, thermal in pairs:
            rgb, reduce, thermal, moved = _reduced(rgb, thermal, h, stage.reduction)
            fields = oriented_gradients(rgb), _features(thermal, moved, _size(rgb))
            parts.append(match_patches(*fields, stage.patch_px, stage.radius_px))
        matches = joined(parts)
        unit = max(rgb.shape) / 2
        to_unit = np.diag([1 / unit, 1 / unit, 1]) @ _translation(*((1 - np.array(_size(rgb))) / 2))
        basis = unit * _homography_basis(matches.centres_px / unit + to_unit[:2, 2])[..., : stage.dof]
        motion = vote(matches, basis, stage.sigma_px)
        step = np.eye(3) + np.append(motion, np.zeros(9 - stage.dof)).reshape(3, 3)
        # The thermal picture was found `step` away from where it belongs.
        h = np.linalg.inv(step @ to_unit @ reduce) @ to_unit @ reduce @ h
    return Alignment(h / h[2, 2], confidence(matches, basis, motion))


def joined(parts: Sequence[Matches]) -> Matches:
    """The patches of several pictures as one lot."""
    lots = zip(*((part.centres_px, part.surfaces, part.weights) for part in parts), strict=True)
    return Matches(*map(np.concatenate, lots))


def _homography_basis(points: np.ndarray) -> np.ndarray:
    """(N, 2, 8) derivative of a homography's image of points (N, 2) by its first eight entries, at the identity."""
    x, y = points.T
    one, nil = np.ones_like(x), np.zeros_like(x)
    rows = [x, y, one, nil, nil, nil, -x * x, -x * y], [nil, nil, nil, x, y, one, -x * y, -y * y]
    return np.stack([np.stack(row, -1) for row in rows], 1)


# --- pictures


def corner_distance_px(a: np.ndarray, b: np.ndarray, rgb_size_px: tuple[int, int]) -> float:
    """How far two homographies lie apart: mean over the RGB picture's corners, taken to thermal by b and back by a."""
    right, bottom = rgb_size_px[0] - 1.0, rgb_size_px[1] - 1.0
    corners = np.array([[[0, 0], [right, 0], [right, bottom], [0, bottom]]])
    moved = cv2.perspectiveTransform(corners, a @ np.linalg.inv(b))
    return float(np.linalg.norm(moved - corners, axis=-1).mean())


def _reduced(rgb: np.ndarray, thermal: np.ndarray, h: np.ndarray, reduction: float):
    """Both pictures at the working size over `reduction`.

    Returns the RGB picture; (3, 3) its old pixels -> its new ones; the thermal picture, averaged where it is finer
    than that; (3, 3) the new thermal pixels -> the new RGB pixels.
    """
    rgb, reduce = shrunk(rgb, working_scale(rgb, reduction))
    middle = np.append((np.array(_size(thermal)) - 1) / 2, 1)
    moved = reduce @ h
    thermal, shrink = shrunk(thermal, abs(np.linalg.det(moved) / (moved[2] @ middle) ** 3) ** 0.5)
    return rgb, reduce, thermal, moved @ np.linalg.inv(shrink)


def working_scale(rgb: np.ndarray, reduction: float) -> float:
    """From the RGB picture to the working size, which is never larger, over `reduction`."""
    return min(WORK_PX / max(rgb.shape), 1.0) / reduction


def shrunk(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture averaged down by `scale`, itself for 1 and above; and (3, 3): its pixels -> the result's."""
    if scale >= 1:
        return image, np.eye(3)
    size = np.maximum(np.round(scale * np.array(_size(image))).astype(int), 1)
    sx, sy = size / _size(image)  # about the outer corner, half a pixel off the first pixel's centre
    to_small = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return cv2.resize(image, size.tolist(), interpolation=cv2.INTER_AREA), to_small


def _features(thermal: np.ndarray, h: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Oriented gradients of the thermal picture moved by h, 0 where the thermal picture does not reach."""
    warped = cv2.warpPerspective(thermal, h, size_px, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return masked_gradients(warped, cv2.warpPerspective(np.ones(thermal.shape, np.uint8), h, size_px))


def _window_energy(field: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Sum of squares over each window of that size that fits, at the window's first pixel."""
    total = cv2.integral(np.square(field).sum(-1), sdepth=cv2.CV_64F)
    w, h = size_px
    return np.maximum(total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w], 0)


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    """The picture in float32, every pixel finite."""
    single = image.ndim == 2 and min(image.shape) >= MIN_SIDE_PX
    if not single or image.dtype not in (np.uint8, np.uint16, np.float32):
        raise AlignmentError(
            f"{name} picture is {image.dtype} of shape {image.shape}: give one channel as uint8, uint16 or float32, "
            f"at least {MIN_SIDE_PX} px on each side"
        )
    image = image.astype(np.float32)
    finite = np.isfinite(image)
    return image if finite.all() else np.where(finite, image, np.median(image[finite]) if finite.any() else 0)


def _checked_guess(guess: np.ndarray) -> np.ndarray:
    guess = np.asarray(guess, np.float64)
    if guess.shape != (3, 3) or not np.isfinite(guess).all() or abs(np.linalg.det(guess)) < 1e-12:
        raise AlignmentError("the guess is no regular (3, 3) matrix: give thermal -> RGB, or none")
    return guess
