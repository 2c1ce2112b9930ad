"""One recording, fused offline and replayed through the live node: are all frames there, and the pixels the same?

    python test/benchmarks/bench_replay.py BAG [--rate 0.5]

BAG: as `fusionproxy make-bag` writes it (topics /rgb/image_raw and /thermal/image_raw, registered by camera_info and
tf_static only where tf2_ros is installed). Ends with 1 where a frame is missing or a pixel differs.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))

import numpy as np
import rclpy

from fusionproxy_ros.bags.fuse import fuse_bag
from fusionproxy_ros.bags.recording import Recording
from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.core.image_messages import read_pixels, stamp_to_ns
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.harness import (
    Downstream,
    prepare_environment,
    start_node,
    stop_process,
    wait_until,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path)
    parser.add_argument("--rate", type=float, default=0.5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        offline = Path(folder) / "fused"
        fused = fuse_bag(args.bag, offline)
        print(dict(fused.modes), dict(fused.reasons))
        prepare_environment()
        rclpy.init()
        node = rclpy.create_node("bench_replay")
        down = Downstream(node)
        fusion = start_node({"use_sim_time": True})
        try:
            with Spinner(node):
                wait_until(lambda: node.count_publishers("fused/image"), 30, "starting the fusion node")
                command = [sys.executable, "-m", "fusionproxy_ros.cli", "replay", args.bag]
                replayed = subprocess.run([*command, "--rate", str(args.rate)], check=True)
                time.sleep(1.0)
        finally:
            stop_process(fusion)
            node.destroy_node()
            rclpy.try_shutdown()
        answers = Counter(stamp_to_ns(msg.header.stamp) for _, msg in down.images)
        live = {stamp_to_ns(msg.header.stamp): msg for _, msg in down.images}
        modes, total, same, different, worst = down.modes, 0, 0, Counter(), 0
        with Recording(offline) as recording:
            for message in recording.messages(["/fused/image"]):
                expected = recording.decode(message)
                stamp_ns = stamp_to_ns(expected.header.stamp)
                total += 1
                if stamp_ns not in live:
                    different["missing"] += 1
                    continue
                distance = np.abs(read_pixels(live[stamp_ns]).astype(int) - read_pixels(expected)).max()
                worst = max(worst, int(distance))
                if distance:
                    different[Mode(modes[stamp_ns]).name] += 1
                else:
                    same += 1
        once = sum(count == 1 for count in answers.values())
        print(
            f"live at rate {args.rate}: {once} of {total} answered once; {same} pictures equal in every pixel"
        )
        print(
            f"others: {dict(different)}, differing by at most {worst} grey levels; replay: {replayed.returncode}"
        )
        return 0 if same == total == once else 1


if __name__ == "__main__":
    sys.exit(main())
