"""A camera driver as its own process: publishes noise at 30 Hz when somebody listens, prints what it sent as JSON."""

import argparse
import json
import os
import time

import numpy as np
import rclpy

from fusionproxy_ros.trials.harness import CameraDrivers
from fusionproxy_ros.trials.night_road import default_calibration


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", nargs="+", default=["rgb", "thermal"])
    parser.add_argument("--best-effort", action="store_true")
    parser.add_argument("--no-camera-info", action="store_true")
    parser.add_argument("--seconds", type=float, default=1e9)
    args = parser.parse_args()
    rclpy.init()
    calibration = None if args.no_camera_info else default_calibration()
    node = rclpy.create_node(f"camera_{os.getpid()}")
    cameras = CameraDrivers(node, calibration, args.best_effort, args.names)
    rng = np.random.default_rng(0)
    pictures = {
        "rgb": rng.integers(0, 256, (480, 640, 3), np.uint8),
        "thermal": rng.integers(0, 9999, (256, 320), np.uint16),
    }
    end = time.monotonic() + 20
    while time.monotonic() < end and not cameras.connected():
        time.sleep(0.02)
    time.sleep(2.0 if args.best_effort else 0.5)  # an "auto" subscriber may have to subscribe again
    sent, begin = 0, time.monotonic()
    while sent < args.seconds * 30:
        time.sleep(max(0.0, begin + sent / 30 - time.monotonic()))
        pictures["thermal"][0, 0] = sent  # else it would be taken for frozen
        for name in args.names:
            cameras.publish(name, time.time_ns(), pictures[name])
        sent += 1
    time.sleep(1.0)  # reliable messages may still be on their way
    print(json.dumps({"sent": sent}), flush=True)
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
