"""Under overload the newest frame wins, memory stays bounded and every skip is counted."""

import time

import numpy as np
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.demo import wait_until
from fusionproxy_ros.messages import stamp_to_ns


def test_more_frames_than_the_machine_can_fuse_are_skipped_in_order_and_each_skip_is_told(graph):
    graph.fusion({"max_latency_s": 0.05, "student.threads": 1, "student.device": "cpu"})
    down, cameras = graph.downstream(keep_pixels=False), graph.cameras()
    rgb = np.zeros((1620, 2160, 3), np.uint8)
    # Small, since this process is the downstream too: what it has no time to take in is lost on the way.
    thermal = np.arange(240 * 320, dtype=np.uint8).reshape(240, 320)
    i = 0
    while not down.statuses or down.statuses[-1].dropped < 10:  # far faster than one thread fuses this size
        i += 1
        assert i < 2000, "no skip"
        stamp_ns = 10**9 + i * 10_000_000
        cameras.publish("thermal", stamp_ns, np.roll(thermal, i))
        cameras.publish("rgb", stamp_ns, rgb)
        time.sleep(0.01)
    wait_until(
        lambda: down.statuses and stamp_to_ns(down.statuses[-1].header.stamp) == stamp_ns, 20, "the newest"
    )
    last = down.statuses[-1]
    assert last.mode != FusionStatus.DROPPED  # the newest frame is always answered
    assert last.dropped > 0 and last.received == last.fused + last.held + last.passed + last.dropped
    assert sum(s.mode == FusionStatus.DROPPED for s in down.statuses) == last.dropped
    wait_until(
        lambda: len(down.images) == last.received - last.dropped, 5, "one image for every frame not dropped"
    )
    stamps = [stamp_to_ns(msg.header.stamp) for _, msg in down.images]
    assert stamps == sorted(set(stamps)) and stamps[-1] == stamp_ns
