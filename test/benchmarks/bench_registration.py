"""What registration of one frame costs on one CPU core, against OpenCV's undistort and warpPerspective chain.

    python test/benchmarks/bench_registration.py

Prints medians of the same run; the two chains take turns, so that a busy machine slows both.
"""

import time

import cv2
import numpy as np

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.trials.night_road import default_calibration

ROUNDS = 200


def naive(calibration, plane_depth_m, rgb_size_px):
    """Undistort the thermal image, then warp it by the homography that the plane induces: two resamplings."""
    rgb, thermal = calibration.rgb, calibration.thermal
    plane = calibration.rotation + np.outer(calibration.translation_m, [0, 0, 1 / plane_depth_m])
    to_rgb = np.linalg.inv(thermal.k @ plane @ np.linalg.inv(rgb.k))

    def run(pixels):
        return cv2.warpPerspective(cv2.undistort(pixels, thermal.k, thermal.d), to_rgb, rgb_size_px)

    return run


def medians_ms(functions):
    times_ms = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times_ms[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times_ms.items()}


def main():
    cv2.setNumThreads(1)
    keep_freed_memory()
    print(
        f"{'thermal':>9} {'RGB':>10} {'dtype':>8} {'naive':>8} {'plane':>8} {'ratio':>6} {'depth':>8}  (ms)"
    )
    for rgb_px, thermal_px in (((640, 480), (320, 256)), ((640, 480), (640, 512)), ((1280, 720), (640, 512))):
        calibration = default_calibration(rgb_px, thermal_px)
        plane, depth = (make(calibration, 20.0) for make in (registration.extrinsic, by_depth))
        chain = naive(calibration, 20.0, rgb_px)
        depth_m = np.random.default_rng(0).uniform(2, 60, rgb_px[::-1]).astype(np.float32)
        for dtype in (np.uint8, np.uint16, np.float32):
            thermal = np.random.default_rng(0).integers(0, 255, thermal_px[::-1]).astype(dtype)
            ms = medians_ms(
                {
                    "naive": lambda t=thermal, c=chain: c(t),
                    "plane": lambda t=thermal, r=plane, s=rgb_px: r.register(t, s),
                    "depth": lambda t=thermal, r=depth, s=rgb_px, z=depth_m: r.register(t, s, z),
                }
            )
            sizes = ["{}x{}".format(*size) for size in (thermal_px, rgb_px)]
            print(
                f"{sizes[0]:>9} {sizes[1]:>10} {np.dtype(dtype).name:>8} {ms['naive']:8.2f} {ms['plane']:8.2f} "
                f"{ms['naive'] / ms['plane']:6.1f} {ms['depth']:8.2f}"
            )


if __name__ == "__main__":
    main()
