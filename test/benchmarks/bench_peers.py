"""The processes around the node that bench_node.py starts: both camera drivers, and a downstream.

    python test/benchmarks/bench_peers.py cameras FOLDER [--seconds 300] [--hz 30] [--best-effort]
    python test/benchmarks/bench_peers.py downstream FOLDER

The cameras play FOLDER/rgb.npy and thermal.npy, as free-running drivers would, and write sent.json; the downstream
takes what the node publishes until SIGINT, and writes got.json. Times are of the system's clock, which both share.
"""

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import rclpy
from fusionproxy_ros.msg import FusionStatus
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.trials import demo
from fusionproxy_ros.trials.harness import CameraDrivers, wait_until
from fusionproxy_ros.trials.night_road import default_calibration

TIMES = ("sync_wait", "queue", "register", "normalise", "student", "publish", "total")  # of FusionStatus


def cameras(folder: Path, seconds: float, hz: float, best_effort: bool) -> None:
    """sent.json: [camera, stamp, ns of the publish call] of each image."""
    footage = {name: np.load(folder / f"{name}.npy") for name in ("rgb", "thermal")}
    sizes_px = [(pictures.shape[2], pictures.shape[1]) for pictures in footage.values()]
    drivers, sent = (
        CameraDrivers(rclpy.create_node("bench_cameras"), default_calibration(*sizes_px), best_effort),
        [],
    )
    wait_until(drivers.connected, 60, "the fusion node subscribing")
    time.sleep(1.0)  # the last endpoints match
    begin_ns = time.time_ns()
    for n in range(round(seconds * hz)):
        for name, phase_s in ("rgb", 0.0), ("thermal", demo.THERMAL_PHASE_S):
            stamp_ns = begin_ns + round((n / hz + phase_s) * 1e9)
            time.sleep(max(0, stamp_ns - time.time_ns()) / 1e9)
            sent.append((name, stamp_ns, time.time_ns()))
            drivers.publish(name, stamp_ns, footage[name][n % len(footage[name])])
    time.sleep(2.0)  # reliable messages may still be on their way
    (folder / "sent.json").write_text(json.dumps(sent))


def downstream(folder: Path) -> None:
    """got.json: images as [stamp, ns of the node's publish call, ns of the callback], and statuses."""
    images, statuses, qos = [], [], QoSProfile(depth=100)
    node = rclpy.create_node("bench_downstream")

    def on_image(msg: Image, info: dict) -> None:
        images.append((stamp_to_ns(msg.header.stamp), info["source_timestamp"], time.time_ns()))

    def on_status(msg: FusionStatus) -> None:
        times_ms = {name: 1e3 * getattr(msg, f"{name}_s") for name in TIMES}
        statuses.append((stamp_to_ns(msg.header.stamp), stamp_to_ns(msg.thermal_stamp), msg.mode, times_ms))

    node.create_subscription(Image, "fused/image", on_image, qos)
    node.create_subscription(FusionStatus, "fused/status", on_status, qos)
    with suppress(ExternalShutdownException, KeyboardInterrupt):
        rclpy.spin(node)
    (folder / "got.json").write_text(json.dumps([images, statuses]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=("cameras", "downstream"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--best-effort", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    rclpy.init()
    if args.peer == "cameras":
        cameras(args.folder, args.seconds, args.hz, args.best_effort)
    else:
        downstream(args.folder)


if __name__ == "__main__":
    main()
