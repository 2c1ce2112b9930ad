"""A GPU that hangs blocks the thread that fuses; the output goes on."""

import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.demo import stop_process, wait_until
from fusionproxy_ros.messages import stamp_to_ns

PERIOD_NS = 10**9 // 30
HUNG_S = 2.5
# A node whose fusing of the 31st frame blocks, as a call into a driver that hangs does: without the interpreter's lock.
HANGING_NODE = """
import sys, time
import fusionproxy_ros.fuser as fuser
import fusionproxy_ros.worker as worker
from fusionproxy_ros.start import main

worker.LOST_NS = {lost_s} * 10**9

fuse = fuser.Fuser.fuse

def hanging(self, pair, registration):
    if pair.rgb.stamp_ns // {period_ns} == 31:
        time.sleep({hung_s})
    return fuse(self, pair, registration)

fuser.Fuser.fuse = hanging
sys.exit(main())
"""


def start(graph, hung_s, lost_s=10):
    code = HANGING_NODE.format(period_ns=PERIOD_NS, hung_s=hung_s, lost_s=lost_s)
    graph.processes.append(subprocess.Popen([sys.executable, "-c", code]))
    return graph.processes[-1]


def stream(cameras, first, last):
    """Frames first to last - 1 at 30 Hz, RGB brighter by one level for each."""
    for i in range(first, last):
        rgb = np.full((48, 64, 3), i, np.uint8)
        cameras.publish("thermal", i * PERIOD_NS, np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) + i)
        cameras.publish("rgb", i * PERIOD_NS, rgb)
        time.sleep(PERIOD_NS / 1e9)


def test_every_frame_is_answered_while_fusing_hangs_and_the_node_says_so_and_fuses_again(graph):
    start(graph, HUNG_S)
    told = []
    graph.node.create_subscription(DiagnosticArray, "/diagnostics", lambda a: told.append(a.status[0]), 10)
    down, cameras = graph.downstream(), graph.cameras()
    stream(cameras, 1, 131)
    wait_until(lambda: len(down.statuses) == len(down.images) == 130, 10, "130 answers")
    numbers = [round(stamp_to_ns(msg.header.stamp) / PERIOD_NS) for _, msg in down.images]
    assert numbers == list(range(1, 131))  # once each, in order
    worst_s = max(b - a for (a, _), (b, _) in pairwise(down.images)) / 1e9
    assert worst_s < 0.5 < HUNG_S
    hung = [s for s in down.statuses if "fusing" in s.reason]
    assert hung[0].reason.startswith("fusing takes far longer") and hung[-1].reason.startswith("fusing hangs")
    assert 50 < len(hung) < 90 and all(s.mode == FusionStatus.PASSTHROUGH for s in hung)
    for number, (_, msg) in zip(numbers, down.images, strict=True):
        if down.statuses[number - 1] in hung:
            assert set(msg.data) == {number}  # its own RGB, not an earlier one's
    assert all(s.mode == FusionStatus.FUSED for s in down.statuses[-15:])
    assert any(s.level == DiagnosticStatus.ERROR and "fusing hangs" in s.message for s in told)


def test_a_node_whose_fusing_hangs_for_good_still_ends_at_once(graph):
    process = start(graph, hung_s=60)
    down, cameras = graph.downstream(), graph.cameras()
    stream(cameras, 1, 45)
    wait_until(lambda: len(down.images) == 44, 10, "44 answers")
    start_s = time.monotonic()
    stop_process(process)
    assert time.monotonic() - start_s < 3


def test_a_node_whose_fusing_hangs_for_good_fuses_again_without_a_restart(graph):
    start(graph, hung_s=60, lost_s=1)
    down, cameras = graph.downstream(), graph.cameras()
    stream(cameras, 1, 151)
    wait_until(lambda: len(down.statuses) == len(down.images) == 150, 10, "150 answers")
    numbers = [round(stamp_to_ns(msg.header.stamp) / PERIOD_NS) for _, msg in down.images]
    assert numbers == list(range(1, 151))
    assert all(s.mode == FusionStatus.FUSED for s in down.statuses[-15:])
    assert any("begins anew on the CPU" in s.reason for s in down.statuses)
