"""Nobody listens, nothing runs; somebody listens, everything runs."""

import os

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from fusionproxy_ros.msg import FusionStatus
from sensor_msgs.msg import Image

from fusionproxy_ros.trials.harness import wait_until


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
        wait_until(lambda: subscribers(graph) == [1, 1], 30, "the node to listen")
        graph.node.destroy_subscription(listener)
        wait_until(lambda: subscribers(graph) == [0, 0], 30, "the node to stop listening")


def test_without_a_listener_nearly_nothing_is_computed_and_one_that_comes_late_gets_fused_frames(graph):
    messages = diagnostics(graph)
    process = graph.fusion()
    graph.camera()
    wait_until(lambda: len(messages) > 1, 30, "an idle node")

    before_s, count = cpu_s(process), len(messages)
    wait_until(lambda: len(messages) >= count + 3, 60, "diagnostics, once a second")
    idle_s = cpu_s(process) - before_s
    assert subscribers(graph) == [0, 0]
    down = graph.downstream(keep_pixels=False)

    def fused():
        return sum(s.mode == FusionStatus.FUSED for s in down.statuses)

    wait_until(fused, 60, "a fused frame")
    assert np.isfinite(down.statuses[-1].total_s)
    before_s, count = cpu_s(process), fused()
    wait_until(lambda: fused() >= count + 60, 120, "60 more, for which it takes two seconds at least")
    busy_s = cpu_s(process) - before_s  # beside other work both take longer
    assert idle_s < 0.25 * busy_s, f"{idle_s:.2f} s without a listener, {busy_s:.2f} s with one"


def cpu_s(process):
    """Processor seconds that a process has used."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
