"""A synthetic night road, seen by an RGB and a thermal camera, with exact ground truth.

The ego vehicle waits at a zebra crossing. The world frame is the RGB optical frame (x right, y down, z
forward, in metres): flat ground, house fronts along the street, and fronto-parallel billboards made of
tapered capsules for people, cars, trees and lamp posts. Every surface carries radiance and temperature
together, and each camera traces it along its own rays: all images of one instant show one geometry.

night_figures.py has the car and the people that move, in a plot of CYCLE_S. A fog bank grows from 7 s of it, is
thickest at 13 s and gone at 19 s.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.trials.night_figures import (
    CAR_LAMPS_M,
    CAR_X_M,
    CYCLE_S,
    LAMP_HEADS_XZ_M,
    LAMPS_XZ_M,
    SODIUM_TINT,
    Billboard,
    car_front,
    car_z_m,
    street_furniture,
    walkers,
)

VISIBLE_CONTRAST = 0.06  # about 15 of 255 grey levels, six times the RGB camera's noise
COUNTS_PER_KELVIN = 100.0  # thermal counts are centikelvin
RING_PX = 6
MIN_VISIBLE_PX = 40  # a pedestrian with fewer unoccluded pixels is not listed
SUPERSAMPLE = 2  # of the still picture; billboards are anti-aliased analytically
CAMERA_HEIGHT_M = 1.4
KERBS_M = (-7.6, 3.9)  # x; in between: parking strip, oncoming lane, our lane, parking strip
FRONTS_M = (-11.0, 7.2)  # x of the house fronts
STREET_END_M = 140.0
FOG_BANK_M = (6.0, 45.0)  # nearest and farthest z
FOG_HEIGHT_M = 5.0
NIGHT_SKY = (0.046, 0.052, 0.066)  # linear RGB; radiance 1 saturates the RGB camera
HEADLIGHT_TINT = (1.0, 0.93, 0.80)
AIRLIGHT = (0.050, 0.054, 0.060)


@dataclass(frozen=True, eq=False)
class Pedestrian:
    """Ground truth of one pedestrian in the RGB image.

    id: constant over time, from 1. depth_m: z in the RGB optical frame.
    box_px: (x0, y0, x1, y1) around the whole silhouette, hidden parts included, clipped; x1, y1 exclusive.
    mask: (H, W) bool, the pixels that nothing nearer occludes (glare and fog do not occlude).
    rgb_contrast: `contrast` in the RGB image; below VISIBLE_CONTRAST the pedestrian is invisible there.
    """

    id: int
    depth_m: float
    box_px: tuple[int, int, int, int]
    mask: np.ndarray
    rgb_contrast: float


def default_calibration(rgb_size_px=(640, 480), thermal_size_px=(320, 256)) -> Calibration:
    """A typical pair: RGB 65 degrees wide, thermal 60 degrees with stronger distortion, 0.10 m apart."""

    def camera(size_px, focal, centre, d):
        width_px, height_px = size_px
        f_px, cx, cy = focal * width_px, centre[0] * width_px, centre[1] * height_px
        k = np.array([[f_px, 0, cx], [0, f_px, cy], [0, 0, 1]])
        return Camera(width_px, height_px, k, "plumb_bob", np.array(d))

    rotation, _ = cv2.Rodrigues(np.radians([0.5, -0.8, 0.4]))
    return Calibration(
        rgb=camera(rgb_size_px, 0.784, (0.503, 0.492), (-0.08, 0.03, 0.0004, -0.0003, 0.0)),
        thermal=camera(thermal_size_px, 0.86, (0.496, 0.505), (-0.24, 0.08, -0.0006, 0.0005, 0.0)),
        rotation=rotation,
        translation_m=np.array([-0.10, 0.02, -0.01]),
    )


def contrast(image_luma: np.ndarray, mask: np.ndarray) -> float:
    """How visible a region is: |mean inside - mean in a ring around it| / 255, within 0..1.

    image_luma: (H, W), 0..255. mask: (H, W) bool. The ring is RING_PX wide; 0 where mask or ring is empty.
    A difference of grey levels and not a ratio (Weber, Michelson): in the dark a ratio calls one grey level
    of noise on black a strong contrast, while what an eye or a detector gets is the difference.
    """
    box = cv2.boundingRect(mask.view(np.uint8))
    y0, x0 = max(box[1] - RING_PX, 0), max(box[0] - RING_PX, 0)
    near = slice(y0, box[1] + box[3] + RING_PX), slice(x0, box[0] + box[2] + RING_PX)
    luma, inside = image_luma[near], mask[near]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING_PX + 1, 2 * RING_PX + 1))
    ring = (cv2.dilate(inside.view(np.uint8), disc) > 0) & ~inside
    if not inside.any() or not ring.any():
        return 0.0
    return float(abs(luma[inside].mean(dtype=float) - luma[ring].mean(dtype=float)) / 255)


class _View:
    """One camera in the world: origin (3,) and, per pixel, the ray's dx/dz and dy/dz."""

    def __init__(self, camera, rotation, translation_m, supersample=1):
        self.camera, self.rotation, self.translation_m = camera, rotation, translation_m
        self.origin = -rotation.T @ translation_m
        u, v = (
            (np.arange(n * supersample) + 0.5) / supersample - 0.5
            for n in (camera.width_px, camera.height_px)
        )
        pixels = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 1, 2)
        until = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 60, 1e-9)
        in_camera = cv2.undistortPointsIter(pixels, camera.k, camera.d, None, None, until).reshape(-1, 2)
        rays = np.column_stack([in_camera, np.ones(len(in_camera))]) @ rotation  # = rotation.T @ each ray
        self.dx, self.dy = (
            (rays[:, i] / rays[:, 2]).reshape(len(v), len(u)).astype(np.float32) for i in (0, 1)
        )
        above = np.maximum(-self.dy, 1e-3)
        self.fog_exit_m = np.clip((FOG_HEIGHT_M - CAMERA_HEIGHT_M) / above, *FOG_BANK_M).astype(np.float32)
        self.field = in_camera.min(axis=0), in_camera.max(axis=0)

    def project(self, points_m):
        """(N, 3) world points before the camera -> (N, 2) pixels; what is out of view stays out of view."""
        p = points_m @ self.rotation.T + self.translation_m
        # Far outside the image the distortion polynomial folds back into it: stop a little outside.
        p[:, :2] = np.clip(p[:, :2] / p[:, 2:], self.field[0] - 0.1, self.field[1] + 0.1)
        p[:, 2] = 1
        return cv2.projectPoints(p, np.zeros(3), np.zeros(3), self.camera.k, self.camera.d)[0].reshape(-1, 2)

    def window(self, low_m, high_m, z_m):
        """Index window (rows, columns) that holds the rectangle low_m..high_m, world (x, y), at z_m."""
        corners = [(x, y, z_m) for x in (low_m[0], high_m[0]) for y in (low_m[1], high_m[1])]
        pixels = self.project(np.array(corners))
        x0, y0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 2, 0)
        x1, y1 = np.maximum(np.ceil(pixels.max(axis=0)).astype(int) + 3, 0)
        return np.s_[y0:y1, x0:x1]


class NightRoad:
    """The scene. Every method is a pure function of calibration, seed (>= 0) and t_s (any float, seconds).

    Both cameras of the calibration must be "plumb_bob" or "rational_polynomial".
    """

    def __init__(self, calibration: Calibration, seed: int = 0):
        self._seed = seed
        rng = np.random.default_rng(seed)
        self._grain = _smooth_noise(rng, (512, 512), 1.2)
        self._lit = rng.random((8, 256))
        self._roofs_m = rng.uniform(10.5, 13, (3, 20))
        self._walkers = walkers(rng)

        c = calibration
        poses = ((c.rgb, np.eye(3), np.zeros(3)), (c.thermal, c.rotation, c.translation_m))
        self._rgb_view, self._thermal_view = (_View(*pose) for pose in poses)
        props = street_furniture(rng)
        self._rgb_still, self._thermal_still = (
            self._still(view, _View(*pose, SUPERSAMPLE), props)
            for view, pose in zip((self._rgb_view, self._thermal_view), poses, strict=True)
        )

        h, w = self._rgb_view.dx.shape
        self._flare = _flare_tile(h, w)
        self._add_lamp_bloom(self._rgb_still[0])
        self._rgb_noise = rng.normal(0, 2.5, (3, h + 64, w + 64)).astype(np.float32)
        self._fog_noise = 1 + 0.4 * _smooth_noise(rng, (128, 512), 8)
        h, w = self._thermal_view.dx.shape
        self._thermal_noise = rng.normal(0, 0.05, (h + 64, w + 64)).astype(np.float32)
        self._thermal_columns = rng.normal(0, 0.08, w).astype(np.float32)

    def rgb(self, t_s: float) -> np.ndarray:
        """(H, W, 3) uint8, rgb8."""
        view = self._rgb_view
        planes, depth, _, _ = self._trace(view, self._rgb_still, t_s)
        light = planes[:3]
        fog = self._fog(view, depth, t_s, extinction=1.0)
        for plane, airlight in zip(light, AIRLIGHT, strict=True):
            plane += (airlight - plane) * fog
        for x_px, y_px, power in self._glare(depth, t_s):
            flare = self._flare_at(x_px, y_px) * power
            for plane, tint in zip(light, HEADLIGHT_TINT, strict=True):
                plane += flare * tint
        # A square-root response turns shot noise into noise of one standard deviation at every brightness.
        cv2.sqrt(light, light)
        dy, dx = self._jitter(t_s)
        h, w = depth.shape
        channels = [
            cv2.addWeighted(plane, 255.0, noise[dy : dy + h, dx : dx + w], 1.0, 0.0, dtype=cv2.CV_8U)
            for plane, noise in zip(light, self._rgb_noise, strict=True)
        ]
        return cv2.merge(channels)

    def thermal(self, t_s: float) -> np.ndarray:
        """(h, w) uint16 counts, COUNTS_PER_KELVIN each; NETD 0.05 K and fixed column noise included."""
        view = self._thermal_view
        planes, depth, _, _ = self._trace(view, self._thermal_still, t_s)
        kelvin = planes[3]
        kelvin += (281.0 - kelvin) * self._fog(view, depth, t_s, extinction=0.06)
        kelvin = cv2.GaussianBlur(kelvin, (0, 0), 0.6) + self._thermal_columns
        dy, dx = self._jitter(t_s)
        h, w = depth.shape
        noise = self._thermal_noise[dy : dy + h, dx : dx + w]
        return cv2.addWeighted(kelvin, COUNTS_PER_KELVIN, noise, COUNTS_PER_KELVIN, 0.0, dtype=cv2.CV_16U)

    def depth(self, t_s: float) -> np.ndarray:
        """(H, W) float32 metres along z in the RGB optical frame; inf for the sky."""
        return self._trace(self._rgb_view, self._rgb_still, t_s)[1]

    def pedestrians(self, t_s: float) -> list[Pedestrian]:
        """Everyone with at least MIN_VISIBLE_PX unoccluded pixels in the RGB image, in order of id."""
        _, _, ids, silhouettes = self._trace(self._rgb_view, self._rgb_still, t_s)
        luma = cv2.cvtColor(self.rgb(t_s), cv2.COLOR_RGB2GRAY)
        found = []
        for billboard, (window, inside) in sorted(silhouettes, key=lambda s: s[0].id):
            mask = ids == billboard.id
            if billboard.id == 0 or np.count_nonzero(mask) < MIN_VISIBLE_PX:
                continue
            x, y, w, h = cv2.boundingRect(inside.view(np.uint8))
            x, y = x + window[1].start, y + window[0].start
            box_px = (int(x), int(y), int(x + w), int(y + h))
            depth_m = float(np.float32(billboard.z_m))
            found.append(Pedestrian(billboard.id, depth_m, box_px, mask, contrast(luma, mask)))
        return found

    # ---- rendering ----

    def _trace(self, view, still, t_s):
        """Planes (4, H, W) of RGB and kelvin; depth, ids (H, W); movers [(billboard, (window, inside))]."""
        planes, depth = still[0].copy(), still[1].copy()
        ids = np.zeros(depth.shape, np.uint8)
        moving = [walker.at(t_s) for walker in self._walkers]
        z_m = car_z_m(t_s)
        if z_m is not None:
            moving.append(Billboard(CAR_X_M, z_m, car_front((0.12, 0.02, 0.02), 4.0, 305.0)))
            self._reflect(view, planes, z_m)
        moving.sort(key=lambda billboard: -billboard.z_m)
        return planes, depth, ids, [(b, self._paint(view, planes, depth, ids, b)) for b in moving]

    def _paint(self, view, planes, depth, ids, billboard):
        """Paint one billboard where nothing nearer stands; returns its window and whole silhouette in it."""
        x_m, z_m, parts = billboard.x_m, np.float32(billboard.z_m), billboard.parts
        a, b, radii = parts[:, 0:2], parts[:, 2:4], parts[:, 4:6]
        reach = radii.max(axis=1, keepdims=True)
        left, down = (np.minimum(a, b) - reach).min(axis=0)
        right, top = (np.maximum(a, b) + reach).max(axis=0)
        window = view.window((x_m + left, CAMERA_HEIGHT_M - top), (x_m + right, CAMERA_HEIGHT_M - down), z_m)
        before = depth[window]
        if before.size == 0:
            return window, np.zeros(before.shape, bool)
        scale = np.float32(z_m - view.origin[2])
        x = np.float32(view.origin[0] - x_m) + scale * view.dx[window]
        up = np.float32(CAMERA_HEIGHT_M - view.origin[1]) - scale * view.dy[window]
        distance, radius = _capsules(x, up, a, b, radii)

        # The last part that holds the pixel's centre colours it; beside the silhouette, the nearest part.
        order = np.arange(len(parts), dtype=np.float32)[:, None, None]
        owner = np.where(distance <= 0, -1 - order, distance).argmin(axis=0)
        inner = np.take_along_axis(distance / radius, owner[None], 0)[0]
        edge = np.clip(1 + inner, 0, 1) ** 2  # 0 on the axis, 1 on the rim: round limbs
        outer = distance.min(axis=0)
        pixel_m = scale / np.float32(view.camera.k[0, 0])
        cover = np.clip(0.5 - outer / pixel_m, 0, 1) * (before >= z_m)
        light = _light(x_m, CAMERA_HEIGHT_M - up[:, up.shape[1] // 2, None], z_m)
        for i in range(3):
            value = parts[owner, 6 + i] * (light[i] * (1 - 0.4 * edge) + parts[owner, 10])
            planes[i][window] += (value - planes[i][window]) * cover
        planes[3][window] += (parts[owner, 9] - 2.5 * edge - planes[3][window]) * cover
        solid = cover >= 0.5
        before[solid] = z_m
        ids[window][solid] = billboard.id
        return window, outer <= 0

    def _still(self, view, fine_view, props):
        """Background planes (4, H, W) and depth (H, W): street, sky and everything that never moves."""
        h, w = view.dx.shape
        fine, _ = self._street(fine_view)
        planes = np.stack([cv2.resize(plane, (w, h), interpolation=cv2.INTER_AREA) for plane in fine])
        _, depth = self._street(view)
        ids = np.zeros(depth.shape, np.uint8)
        for prop in props:
            self._paint(view, planes, depth, ids, prop)
        return planes, depth

    def _street(self, view):
        """Planes and depth of ground, left and right house fronts, the street's end and the sky."""
        (ox, oy, oz), dx, dy = view.origin.astype(np.float32), view.dx, view.dy
        with np.errstate(divide="ignore"):
            ground = np.where(dy > 0, oz + (CAMERA_HEIGHT_M - oy) / dy, np.inf)
            fronts = [np.where(dx * x > 0, oz + (x - ox) / dx, np.inf) for x in FRONTS_M]
        hits = [ground, *fronts, np.full(dx.shape, STREET_END_M)]
        for k in (1, 2, 3):  # above its roof a house hides nothing
            z = np.minimum(hits[k], STREET_END_M)
            along, up = self._on_front(k, ox + (z - oz) * dx, oy + (z - oz) * dy, z)
            roof_m = self._roofs_m[k - 1, (along // 13).astype(int) % 20]
            hits[k] = np.where((up < roof_m) & (hits[k] <= STREET_END_M), z, np.inf)
        depth = np.min(hits, axis=0).astype(np.float32)
        surface = np.where(np.isfinite(depth), np.argmin(hits, axis=0), 4)

        planes = np.empty((4, *depth.shape), np.float32)
        sky = surface == 4
        glow = np.exp(np.minimum(dy[sky], 0) / 0.16)
        planes[:, sky] = 0.003 + 0.060 * glow, 0.004 + 0.034 * glow, 0.009 + 0.022 * glow, 257 + 14 * glow
        for k in range(4):
            here = surface == k
            z = depth[here]
            x, y = ox + (z - oz) * dx[here], oy + (z - oz) * dy[here]
            paint = self._ground(x, z) if k == 0 else self._front(k, *self._on_front(k, x, y, z))
            albedo, emission, planes[3, here] = paint
            planes[:3, here] = albedo * _light(x, y, z) + emission
        return planes, depth

    def _on_front(self, k, x, y, z):
        """Metres along and up house front k (1 left, 2 right, 3 the street's end) of world points."""
        return (z if k < 3 else x + 100), CAMERA_HEIGHT_M - y

    def _ground(self, x, z):
        """Albedo (3, N), emission (3, N or 1) and kelvin (N,) of the ground at (x, z)."""
        grain = self._grain[(z * 30).astype(int) % 512, (x * 50).astype(int) % 512] / (1 + z / 8)
        patches = self._grain[(z * 1.5).astype(int) % 512, (x * 4).astype(int) % 512]
        road = (x > KERBS_M[0]) & (x < KERBS_M[1])
        kerb = np.minimum(abs(x - KERBS_M[0]), abs(x - KERBS_M[1])) < 0.12
        slabs = np.where((x % 1.0 < 0.04) | (z % 1.0 < 0.04), 0.7, 1.0)
        albedo = np.where(road, 0.10 + 0.02 * grain + 0.004 * patches, (0.17 + 0.02 * grain) * slabs)
        on_road = (x > -5.25) & (x < 1.75)
        zebra = on_road & (z > 6.6) & (z < 9.6) & ((x + 5.25) % 1.0 < 0.5)
        stop = (x > -1.6) & (x < 1.6) & (abs(z - 5.2) < 0.22)
        dashes = (abs(x + 1.75) < 0.07) & (z % 6 < 3) & (z > 10.5)
        edges = (np.minimum(abs(x + 5.25), abs(x - 1.75)) < 0.06) & (z > 10.5)
        albedo = np.where(zebra | stop | dashes | edges, 0.48 + 0.06 * grain, np.where(kerb, 0.28, albedo))
        tracks = sum(np.exp(-(((x - track) / 0.22) ** 2)) for track in (-4.2, -2.8, -0.7, 0.7))
        kelvin = np.where(road, 284.2 + 2.0 * tracks, 282.4) + 0.25 * grain + 0.2 * patches
        kelvin = np.where(zebra | stop, kelvin - 0.8, kelvin)  # white paint stays cooler
        return albedo * np.array([[1.0], [0.97], [0.93]]), np.zeros((3, 1)), kelvin

    def _front(self, k, along, up):
        """The same of house front k at `along` metres of the street and `up` metres of height."""
        house = (along // 13).astype(int) % 20 + 20 * k
        column, storey = (along // 2.6).astype(int), np.clip(up // 3.1, 0, 7).astype(int)
        u, v = along % 2.6 / 2.6, up % 3.1 / 3.1
        window = (abs(u - 0.5) < 0.24) & (abs(v - 0.55) < 0.27) & (abs(u - 0.5) > 0.02)
        chance = self._lit[storey, (column + 100 * k) % 256]
        lit = window & (chance < 0.22) & (up > 3.1)
        plaster = self._grain[(up * 8).astype(int), (along * 8).astype(int) % 512]
        shade = 0.10 + 0.12 * self._lit[0, house] + 0.02 * plaster
        ledge = (v < 0.05) | (u < 0.02)
        albedo = np.where(window, 0.03, np.where(ledge, 0.7, 1.0) * shade)
        warmth = self._lit[1, column % 256]
        curtain = (0.25 + 2 * chance) * (0.6 + 0.4 * v) * lit
        emission = np.stack([curtain, curtain * (0.62 + 0.25 * warmth), curtain * (0.25 + 0.5 * warmth)])
        kelvin = 280.5 + 2 * self._lit[2, house] + np.where(window, np.where(lit, 4.0, -3.5), 0.0)
        return albedo * np.array([[1.0], [0.9], [0.8]]), emission, kelvin

    # ---- light in the air ----

    def _fog(self, view, depth, t_s, extinction):
        """Share of each pixel's light that the fog bank replaces by airlight, (H, W) float32."""
        strength = max(0.0, np.cos((t_s % CYCLE_S - 13) * np.pi / 12)) ** 2
        path = np.minimum(depth, view.fog_exit_m)
        path -= FOG_BANK_M[0]
        np.maximum(path, 0, out=path)
        shift = int(t_s * 6) % 340
        path *= cv2.resize(self._fog_noise[:, shift : shift + 171], depth.shape[::-1])  # drifting billows
        path *= np.float32(-0.09 * strength * extinction)
        return 1 - cv2.exp(path)

    def _glare(self, depth, t_s):
        """(x_px, y_px, power) of each headlight of the oncoming car that shines into the RGB camera."""
        z_m = car_z_m(t_s)
        if z_m is None:
            return
        lamps_m = np.array([[CAR_X_M + x, CAMERA_HEIGHT_M - 0.68, z_m] for x in CAR_LAMPS_M])
        h, w = depth.shape
        for x_px, y_px in np.rint(self._rgb_view.project(lamps_m)).astype(int):
            if 0 <= x_px < w and 0 <= y_px < h and depth[y_px, x_px] >= np.float32(z_m):
                yield x_px, y_px, min(22 / z_m, 2.0)

    def _reflect(self, view, planes, z_m):
        """Add the streaks that the oncoming headlights draw on the damp road below them."""
        h, w = view.dx.shape
        width_px = 0.16 * view.camera.k[0, 0] / z_m + 1
        for x_px, y_px in view.project(np.array([[CAR_X_M + x, CAMERA_HEIGHT_M, z_m] for x in CAR_LAMPS_M])):
            x0, x1 = (int(np.clip(x_px + side * 3 * width_px, 0, w)) for side in (-1, 1))
            y0 = int(np.clip(y_px, 0, h))
            across = np.exp(-(((np.arange(x0, x1) - x_px) / width_px) ** 2))
            down = np.exp(-(np.arange(y0, h) - y0) / (0.12 * h))
            streak = np.outer(down, across).astype(np.float32)
            for plane, tint in zip(planes[:3], HEADLIGHT_TINT, strict=True):
                plane[y0:, x0:x1] += 0.25 * tint * streak

    def _add_lamp_bloom(self, planes):
        """Add the bloom of the street lamps to the still RGB picture."""
        heads = [[x, CAMERA_HEIGHT_M - 6.1, z] for x, z in LAMP_HEADS_XZ_M]
        for (x_px, y_px), (_, z_m) in zip(self._rgb_view.project(np.array(heads)), LAMPS_XZ_M, strict=True):
            flare = self._flare_at(x_px, y_px) * np.float32(3 / z_m)
            for plane, tint in zip(planes[:3], SODIUM_TINT, strict=True):
                plane += flare * tint

    def _flare_at(self, x_px, y_px):
        """The flare tile's part that covers the image when its centre lies at (x_px, y_px)."""
        h, w = self._rgb_view.dx.shape
        y0, x0 = h - int(np.clip(round(y_px), 0, h)), w - int(np.clip(round(x_px), 0, w))
        return self._flare[y0 : y0 + h, x0 : x0 + w]

    def _jitter(self, t_s):
        """Where in the noise tile the frame of this instant starts."""
        return np.random.default_rng((self._seed, np.float64(t_s).view(np.uint64))).integers(0, 64, 2)


def _smooth_noise(rng, shape, sigma_px):
    """float32 noise that tiles, of standard deviation 1 and the given correlation length."""
    noise = rng.normal(size=shape).astype(np.float32)
    pad = int(4 * sigma_px)
    noise = cv2.GaussianBlur(np.pad(noise, pad, mode="wrap"), (0, 0), sigma_px)[pad:-pad, pad:-pad]
    return noise / noise.std()


def _flare_tile(h, w):
    """(2h, 2w) float32 flare of a unit light at its centre: core, veil, and a streak across."""
    y, x = np.mgrid[-h:h, -w:w].astype(np.float32) * np.float32(640 / w)
    r2 = x * x + y * y
    core = 3.0 * np.exp(-r2 / 90)
    veil = 0.9 / (1 + r2 / 250) + 0.07 * np.exp(-np.sqrt(r2) / 110)
    streak = 0.35 * np.exp(-np.abs(y) / 1.5 - np.abs(x) / 70)
    return (core + veil + streak).astype(np.float32)


def _light(x, y, z):
    """(3, ...) irradiance at world points: night sky, pools of lamp light, our low beam with its cut-off."""
    pools = sum(
        1.2 / (1 + ((x - head_x) ** 2 + (z - head_z) ** 2) / 12) ** 2 for head_x, head_z in LAMP_HEADS_XZ_M
    )
    below_cutoff = 1 / (1 + np.exp(-np.clip(120 * (y - CAMERA_HEIGHT_M + 0.65) / z + 1, -30, 30)))
    beam = 2.6 / (1 + (z / 8) ** 2) ** 1.5 * np.exp(-((x / z / 0.5) ** 2)) * (0.12 + 0.88 * below_cutoff)
    sources = zip(NIGHT_SKY, SODIUM_TINT, HEADLIGHT_TINT, strict=True)
    return np.stack([sky + sodium * pools + white * beam for sky, sodium, white in sources])


def _capsules(x, up, a, b, radii):
    """Signed distance in metres (negative inside) of points (x, up) to N parts, and their radius there."""
    (ax, ay), (ux, uy) = (p.T[:, :, None, None] for p in (a, b - a))
    from_x, from_y = x - ax, up - ay
    along = np.clip((from_x * ux + from_y * uy) / np.maximum(ux * ux + uy * uy, 1e-9), 0, 1)
    radius = radii[:, 0, None, None] + along * (radii[:, 1] - radii[:, 0])[:, None, None]
    return np.sqrt((from_x - along * ux) ** 2 + (from_y - along * uy) ** 2) - radius, radius
