"""Under overload the newest frame wins, memory stays bounded and every skip is counted."""

import subprocess
import sys
import time

import numpy as np
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.trials.harness import node_arguments, wait_until

# Fusing takes ten times as long as there is between two frames, on whatever machine. Small images, of which none is
# lost on the way to those who have no time to take them in.
SLOW_NODE = """
import sys, time
import fusionproxy_ros.fusion.fuser as fuser
from fusionproxy_ros.ros.process import main

prepare = fuser.Fuser.prepare

def slow(self, pair, registration):
    time.sleep(0.1)
    return prepare(self, pair, registration)

fuser.Fuser.prepare = slow
sys.exit(main())
"""


def test_more_frames_than_the_machine_can_fuse_are_skipped_in_order_and_each_skip_is_told(graph):
    command = [sys.executable, "-c", SLOW_NODE, *node_arguments({"max_latency_s": 0.05})]
    graph.processes.append(subprocess.Popen(command))
    down, cameras = graph.downstream(keep_pixels=False), graph.cameras()
    rgb = np.zeros((48, 64, 3), np.uint8)
    thermal = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    i = 0
    while not down.statuses or down.statuses[-1].dropped < 10:
        i += 1
        assert i < 2000, "no skip"
        stamp_ns = 10**9 + i * 10_000_000
        cameras.publish("thermal", stamp_ns, thermal + i)
        cameras.publish("rgb", stamp_ns, rgb)
        time.sleep(0.01)
    wait_until(lambda: stamp_to_ns(down.statuses[-1].header.stamp) == stamp_ns, 60, "the newest")
    last = down.statuses[-1]
    assert last.mode != FusionStatus.DROPPED  # the newest frame is always answered
    assert last.dropped > 0 and last.received == last.fused + last.held + last.passed + last.dropped
    assert sum(s.mode == FusionStatus.DROPPED for s in down.statuses) == last.dropped
    wait_until(
        lambda: len(down.images) == last.received - last.dropped, 30, "one image for every frame not dropped"
    )
    stamps = [stamp_to_ns(msg.header.stamp) for _, msg in down.images]
    assert stamps == sorted(set(stamps)) and stamps[-1] == stamp_ns
