"""A GPU that hangs blocks the thread that fuses; the output goes on.

It hangs until a test lets it go on, so that what is answered before that is answered while it hangs, however busy the
machine is.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.pipeline.answers import HANGS, STALLS
from fusionproxy_ros.trials.harness import node_arguments, stop_process, wait_until

PERIOD_NS = 10**9 // 30
HANGING = 31  # number of the frame
AHEAD = (
    8  # frames that may wait for their answer: none is lost on the way or skipped where the machine is busy
)
# Fusing that frame blocks as a call into a driver that hangs does: without the interpreter's lock.
HANGING_NODE = """
import sys, time
from pathlib import Path
import fusionproxy_ros.fusion.fuser as fuser
import fusionproxy_ros.pipeline.worker as worker
from fusionproxy_ros.ros.process import main

worker.LOST_NS = {lost_s} * 10**9

prepare = fuser.Fuser.prepare

def hanging(self, pair, registration):
    while pair.rgb.stamp_ns // {period_ns} == {hanging} and not Path({release!r}).exists():
        time.sleep(0.01)
    return prepare(self, pair, registration)

fuser.Fuser.prepare = hanging
sys.exit(main())
"""


@pytest.fixture
def release(tmp_path):
    """A file that lets the fusing go on once it is there."""
    return tmp_path / "release"


def start(graph, release, lost_s):
    code = HANGING_NODE.format(period_ns=PERIOD_NS, hanging=HANGING, release=str(release), lost_s=lost_s)
    # A frame that waits for a busy machine is neither skipped nor taken for one that hangs.
    command = [sys.executable, "-c", code, *node_arguments({"max_latency_s": 2.0, "deadline_s": 1.0})]
    graph.processes.append(subprocess.Popen(command))
    return graph.processes[-1]


class Stream:
    """Frames at 30 Hz at most, from number 1 on, RGB brighter by one level for each; and their answers."""

    def __init__(self, graph):
        self.down, self._cameras, self.sent = graph.downstream(), graph.cameras(), 0

    def send_until(self, condition):
        for _ in range(1000):
            if condition():
                return
            wait_until(lambda: self.sent - len(self.down.images) < AHEAD, 60, "answers")
            self.sent += 1
            thermal = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) + self.sent
            self._cameras.publish("thermal", self.sent * PERIOD_NS, thermal)
            self._cameras.publish(
                "rgb", self.sent * PERIOD_NS, np.full((48, 64, 3), self.sent % 256, np.uint8)
            )
            time.sleep(PERIOD_NS / 1e9)
        raise AssertionError("not within 1000 frames")

    def answers(self):
        """(status, image) of each frame, once all are answered; in order and once each, or the test fails."""
        down = self.down
        wait_until(lambda: len(down.statuses) == len(down.images) == self.sent, 60, f"{self.sent} answers")
        numbers = [round(stamp_to_ns(msg.header.stamp) / PERIOD_NS) for _, msg in down.images]
        assert numbers == list(range(1, self.sent + 1))
        return list(zip(down.statuses, (msg for _, msg in down.images), strict=True))

    def tells(self, reason):
        return any(reason in status.reason for status in self.down.statuses)

    def fuses(self):
        """The newest answer is a fused one, of a frame after the one that hangs."""
        newest = self.down.statuses[-1:]
        return any(
            s.mode == FusionStatus.FUSED and stamp_to_ns(s.header.stamp) > HANGING * PERIOD_NS for s in newest
        )


def test_every_frame_is_answered_while_fusing_hangs_and_the_node_says_so_and_fuses_again(graph, release):
    start(graph, release, lost_s=1000)
    told = []
    graph.node.create_subscription(DiagnosticArray, "/diagnostics", lambda a: told.append(a.status[0]), 10)
    stream = Stream(graph)
    stream.send_until(lambda: stream.sent >= HANGING + 2 * AHEAD and stream.tells(HANGS))
    before = stream.answers()
    assert any(status.mode == FusionStatus.FUSED for status, _ in before[: HANGING - 1])
    for number, (status, image) in enumerate(before[HANGING - 1 :], start=HANGING):
        assert status.mode == FusionStatus.PASSTHROUGH and status.reason in (STALLS, HANGS)
        assert set(image.data) == {number % 256}  # its own RGB, not an earlier one's
    wait_until(
        lambda: any(s.level == DiagnosticStatus.ERROR and "fusing hangs" in s.message for s in told),
        30,
        "an error in /diagnostics",
    )
    release.touch()
    stream.send_until(stream.fuses)
    stream.answers()


def test_a_node_whose_fusing_hangs_for_good_still_ends(graph, release):
    process = start(graph, release, lost_s=1000)
    stream = Stream(graph)
    stream.send_until(lambda: stream.tells(STALLS))
    assert stop_process(process, timeout_s=30) == 0  # and not killed after that time


def test_a_node_whose_fusing_hangs_for_good_fuses_again_without_a_restart(graph, release):
    start(graph, release, lost_s=1)
    stream = Stream(graph)
    stream.send_until(stream.fuses)
    stream.answers()
    assert stream.tells("begins anew on the CPU")
