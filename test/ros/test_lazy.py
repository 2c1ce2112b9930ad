"""Nobody listens, nothing runs; somebody listens, everything runs."""

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from fusionproxy_ros.msg import FusionStatus
from sensor_msgs.msg import Image

from fusionproxy_ros.demo import wait_until


def diagnostics(graph):
    """Every message text from now on."""
    messages = []
    graph.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda array: messages.extend(s.message for s in array.status), 10
    )
    return messages


def subscribers(graph):
    return [graph.node.count_subscribers(f"{name}/image_raw") for name in ("rgb", "thermal")]


def test_cameras_are_subscribed_to_only_while_an_output_is(graph):
    messages = diagnostics(graph)
    graph.fusion()
    wait_until(lambda: any(m.startswith("idle: nobody subscribes") for m in messages), 30, "an idle node")
    assert subscribers(graph) == [0, 0]
    for _ in range(2):
        images = []
        listener = graph.node.create_subscription(Image, "fused/image", images.append, 10)
        wait_until(lambda: subscribers(graph) == [1, 1], 5, "the node to listen")
        graph.node.destroy_subscription(listener)
        wait_until(lambda: subscribers(graph) == [0, 0], 5, "the node to stop listening")


def test_a_listener_that_comes_late_gets_fused_frames(graph):
    messages = diagnostics(graph)
    process = graph.fusion()
    graph.camera()
    wait_until(lambda: len(messages) > 1, 30, "an idle node")
    before_s, before = time.monotonic(), cpu_s(process)
    time.sleep(2.0)
    share = (cpu_s(process) - before) / (time.monotonic() - before_s)
    down = graph.downstream(keep_pixels=False)
    wait_until(lambda: any(s.mode == FusionStatus.FUSED for s in down.statuses), 10, "a fused frame")
    assert share <= 0.05, f"{share:.0%} of a core without a listener"
    assert np.isfinite(down.statuses[-1].total_s)


def cpu_s(process):
    """Processor seconds that a process has used."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
