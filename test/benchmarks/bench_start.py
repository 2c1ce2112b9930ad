"""How long a user waits from starting the node to the first fused frame, while both cameras stream at 640x480, 30 Hz.

    python test/benchmarks/bench_start.py [--rounds 5]

Prints each round and the median, with identity registration and with a calibrated rig.
"""

import argparse
import os
import random
import statistics
import threading
import time

os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))

import rclpy

from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.harness import (
    CameraDrivers,
    Downstream,
    extrinsic_parameters,
    prepare_environment,
    start_node,
    stop_process,
    wait_until,
)
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

HZ = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    prepare_environment()
    calibration = default_calibration()
    scene = NightRoad(calibration)
    pairs = [(scene.rgb(n / HZ), scene.thermal(n / HZ)) for n in range(HZ)]
    rclpy.init()
    node = rclpy.create_node("bench_start")
    cameras, down = CameraDrivers(node, calibration), Downstream(node)
    ended = threading.Event()

    def stream():
        n = 0
        while not ended.wait(1 / HZ):
            stamp_ns = time.time_ns()
            for name, pixels in zip(("rgb", "thermal"), pairs[n % HZ], strict=True):
                cameras.publish(name, stamp_ns, pixels)
            n += 1

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        with Spinner(node):
            for what, parameters in ("identity", {}), ("calibrated", extrinsic_parameters(calibration)):
                times_s = []
                for _ in range(rounds):
                    seen = len(down.statuses)
                    start_s = time.monotonic()
                    process = start_node(parameters)
                    wait_until(
                        lambda seen=seen: any(s.mode == Mode.FUSED for s in down.statuses[seen:]),
                        60,
                        "the first fused frame",
                    )
                    times_s.append(time.monotonic() - start_s)
                    stop_process(process)
                    time.sleep(0.5)  # until it is gone from the graph
                listed = " ".join(f"{t:.2f}" for t in times_s)
                print(f"{what:<12} {listed}   median {statistics.median(times_s):.2f} s")
    finally:
        ended.set()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
