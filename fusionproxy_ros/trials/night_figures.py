"""What stands, drives and walks on the night road, as billboards: cars, people, trees and lamp posts, and when.

The plot repeats every CYCLE_S: an oncoming car approaches (0-9 s), waits and dazzles us (to 13.5 s) and passes
(to 17 s); people walk all the time.
"""

from dataclasses import dataclass

import numpy as np

CYCLE_S = 20.0
LAMPS_XZ_M = ((4.3, 17.0), (-8.0, 31.0), (4.3, 47.0), (-8.0, 66.0))  # feet of the lamp posts
LAMP_HEADS_XZ_M = tuple((x - np.sign(x) * 1.6, z) for x, z in LAMPS_XZ_M)
CAR_X_M = -3.5  # of the oncoming car: the middle of its lane
CAR_LAMPS_M = (-0.62, 0.62)  # x of its headlights, from its middle
SODIUM_TINT = (1.0, 0.72, 0.40)  # of the street lamps, linear RGB


@dataclass(frozen=True, eq=False)
class Billboard:
    """Capsules in painting order, rows of `_capsule`, (N, 11) float32; their origin is the ground at (x, z)."""

    x_m: float
    z_m: float
    parts: np.ndarray
    id: int = 0  # above 0: a pedestrian


def _capsule(a_m, b_m, radii_m, albedo, kelvin, emission=0.0):
    """A tapered capsule from a to b, (x right, y up), that radiates albedo * (light on it + emission)."""
    return (*a_m, *b_m, *radii_m, *albedo, kelvin, emission)


def car_z_m(t_s):
    """Distance of the oncoming car, None once it has passed."""
    t_s = t_s % CYCLE_S
    z_m = 13 + 72 * max(0.0, 1 - t_s / 9) ** 2 - 1.25 * max(0.0, t_s - 13.5) ** 2
    return z_m if z_m > 2 else None


def car_front(paint, lamps, bonnet_kelvin):
    """Front of a car; lamps is the radiance of its headlights."""

    def bar(half_m, up_m, radius_m, albedo, kelvin):
        return _capsule((-half_m, up_m), (half_m, up_m), (radius_m, radius_m), albedo, kelvin)

    black, glass, grey = (0.02, 0.02, 0.02), (0.04, 0.045, 0.05), (0.5, 0.5, 0.5)
    parts = [_capsule((x, 0.1), (x, 0.4), (0.11, 0.11), black, 296.0) for x in (-0.72, 0.72)]  # tyres
    parts.append(bar(0.60, 1.10, 0.27, glass, 277.0))
    parts += [
        _capsule((s * 0.76, 0.9), (s * 0.55, 1.36), (0.10, 0.08), paint, 280.0) for s in (-1, 1)
    ]  # pillars
    parts += [
        bar(0.50, 1.40, 0.07, paint, 279.0),  # roof
        bar(0.66, 0.52, 0.24, paint, 284.0),
        bar(0.66, 0.84, 0.14, paint, bonnet_kelvin),
        bar(0.34, 0.62, 0.09, black, bonnet_kelvin + 4),  # grille
        bar(0.20, 0.42, 0.05, grey, 284.0),  # number plate
    ]
    parts += [_capsule((x, 0.68), (x * 1.1, 0.70), (0.09, 0.07), grey, 300.0, lamps) for x in CAR_LAMPS_M]
    return np.array(parts, np.float32)


@dataclass(frozen=True, eq=False)
class _Walker:
    """Someone who is at centre_m (x, z) at noon_s of every cycle; `returns` means there and back again."""

    id: int
    centre_m: tuple[float, float]
    velocity_mps: tuple[float, float]
    noon_s: float
    returns: bool
    height_m: float
    girth: float
    coat: np.ndarray  # albedo (3,)

    def at(self, t_s):
        since_s = (t_s - self.noon_s + CYCLE_S / 2) % CYCLE_S - CYCLE_S / 2
        if self.returns:
            since_s = abs(since_s) - CYCLE_S / 4
        x_m, z_m = (c + v * since_s for c, v in zip(self.centre_m, self.velocity_mps, strict=True))
        stride = 2 * np.pi * np.hypot(*self.velocity_mps) * since_s / (0.8 * self.height_m)
        parts = _person(self.height_m, self.girth, self.coat, stride, np.sign(self.velocity_mps[0]))
        return Billboard(x_m, z_m, parts, self.id)


def _person(height_m, girth, coat, stride, facing):
    """A walker at phase `stride` of the gait; facing +1 or -1 walks across the picture, 0 towards or away."""
    skin, hair, shoe = (0.30, 0.21, 0.16), (0.05, 0.04, 0.03), (0.02, 0.02, 0.02)
    trousers = tuple(0.8 * c for c in coat)
    frontal = float(facing == 0)
    parts = []  # in units of the body height until the end

    def limb(start, colour, *bones):
        """Chain of bones (length, angle, radii, kelvin); angle 0 hangs down, a positive one swings ahead."""
        for length, angle, radii, kelvin in bones:
            end = (start[0] + facing * length * np.sin(angle), start[1] - length * np.cos(angle))
            parts.append(_capsule(start, end, radii, colour, kelvin))
            start = end
        return start

    def leg(side, phase):
        thigh, knee = 0.45 * np.sin(phase), 0.12 + 0.75 * max(0.0, np.cos(phase))
        bones = (0.245, thigh, (0.056, 0.042), 299.5), (0.235, thigh - knee, (0.042, 0.028), 298.0)
        x, y = limb((side * (0.015 + 0.035 * frontal), 0.52), trousers, *bones)
        toe = (x + facing * 0.075 + frontal * side * 0.02, y - 0.012)
        parts.append(_capsule((x, y), toe, (0.024, 0.017), shoe, 293.0))

    def arm(side, phase):
        swing = -0.42 * np.sin(phase)
        bones = (0.165, swing, (0.036, 0.030), 300.5), (0.14, swing + 0.35, (0.030, 0.022), 300.0)
        x, y = limb((side * (0.01 + 0.095 * frontal), 0.80), coat, *bones)
        parts.append(_capsule((x, y), (x, y - 0.025), (0.022, 0.018), skin, 304.5))

    arm(-1, stride)
    leg(-1, stride)
    leg(1, stride + np.pi)
    half, waist = 0.006 + 0.039 * frontal, (0.072 * girth, 0.080 * girth)
    parts += [_capsule((x, 0.50), (1.2 * x, 0.78), waist, coat, 301.0) for x in (-half, half)]
    parts.append(_capsule((0.0, 0.82), (facing * 0.01, 0.90), (0.034, 0.034), skin, 306.0))
    parts.append(_capsule((facing * 0.006, 0.935), (facing * 0.010, 0.955), (0.054, 0.052), hair, 301.5))
    parts.append(_capsule((facing * 0.022, 0.905), (facing * 0.026, 0.94), (0.038, 0.042), skin, 307.0))
    arm(1, stride + np.pi)
    body = np.array(parts, np.float32)
    body[:, [1, 3]] -= (body[:, [1, 3]] - body[:, 4:6]).min()  # the lower foot stands on the ground
    body[:, :6] *= height_m
    return body


def walkers(rng):
    """Nine people. Those who cross do so while the oncoming car waits, or is far away or gone."""

    def person(x_m, z_m, noon_s, vx=0.0, vz=0.0, bright=False):
        coat = (0.85, 0.80, 0.45) if bright else rng.uniform(0.025, 0.06, 3)
        where = (x_m, rng.uniform(*z_m)), (vx, vz), rng.uniform(*noon_s), vx == 0
        return *where, rng.uniform(1.58, 1.9), rng.uniform(0.95, 1.3), coat

    def cross(z_m, noon_s, bright=False):
        return person(CAR_X_M, z_m, noon_s, vx=rng.choice((-1, 1)) * rng.uniform(1.25, 1.55), bright=bright)

    def stroll(x_m, z_m):
        return person(rng.uniform(*x_m), z_m, (0, CYCLE_S), vz=rng.uniform(1.1, 1.3))

    people = (
        cross((7.0, 7.8), (-1, 3), bright=True),
        cross((8.4, 9.2), (7, 11)),
        cross((15.5, 18), (9.5, 12)),
        cross((22, 27), (11, 17)),
        cross((30, 38), (7, 12)),
        stroll((-9.8, -8.6), (20, 23)),
        stroll((4.6, 6.4), (15, 17)),
        stroll((4.6, 6.4), (21, 24)),
        stroll((1.6, 2.0), (15, 18)),
    )
    return [_Walker(i, *who) for i, who in enumerate(people, start=1)]


def street_furniture(rng):
    """Lamp posts, trees and parked cars, farthest first."""
    iron, bark, props = (0.06, 0.06, 0.06), (0.05, 0.04, 0.03), []
    for (x_m, z_m), (head_x_m, _) in zip(LAMPS_XZ_M, LAMP_HEADS_XZ_M, strict=True):
        arm = head_x_m - x_m
        post = _capsule((0, 0), (0, 6), (0.09, 0.05), iron, 281.0)
        boom = _capsule((0, 6), (arm, 6.15), (0.04, 0.04), iron, 281.0)
        head = _capsule((arm * 0.8, 6.1), (arm * 1.2, 6.1), (0.09, 0.07), SODIUM_TINT, 312.0, 1.6)
        props.append((x_m, z_m, (post, boom, head)))
    for x_m, z_m in ((-8.2, 21.0), (4.5, 27.0), (-8.2, 40.0), (4.5, 38.0), (-8.2, 52.0), (4.5, 56.0)):
        tree = [_capsule((0, 0), (rng.uniform(-0.2, 0.2), 3), (0.16, 0.10), bark, 282.0)]
        for _ in range(60):
            bearing, away_m = rng.uniform(0, 2 * np.pi), 1.3 * np.sqrt(rng.random())
            radius_m = rng.uniform(0.15, 0.42)
            spot = (away_m * np.cos(bearing), 4.2 + away_m * np.sin(bearing))
            leaves = rng.uniform(0.6, 1.3) * np.array([0.035, 0.05, 0.02])
            tree.append(_capsule(spot, spot, (radius_m, radius_m), leaves, rng.normal(281, 0.4)))
        props.append((x_m, z_m, tree))
    for x_m, z_m in ((-6.5, 15.0), (-6.5, 27.0), (2.9, 20.0), (-6.5, 33.0), (2.9, 33.0), (2.9, 43.0)):
        paint = rng.uniform(0.04, 0.3) * rng.uniform(0.6, 1.0, 3)
        props.append((x_m, z_m, car_front(paint, 0.0, rng.choice((279.0, 281.0, 298.0)))))
    props.sort(key=lambda prop: -prop[1])
    return [Billboard(x_m, z_m, np.array(parts, np.float32)) for x_m, z_m, parts in props]
