"""Processes die and come back; nobody has to help."""

from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.trials.harness import wait_until


def modes_since(down, index):
    return [status.mode for status in down.statuses[index:]]


def kill(graph, process):
    process.kill()
    process.wait()
    graph.processes.remove(process)


def test_node_and_thermal_camera_are_killed_in_turn_and_service_resumes(graph):
    down = graph.downstream(keep_pixels=False)
    fusion = graph.fusion()
    graph.camera("--names", "rgb")
    thermal = graph.camera("--names", "thermal")
    wait_until(lambda: FusionStatus.FUSED in modes_since(down, 0), 40, "first fused frame")

    kill(graph, thermal)
    seen = len(down.statuses)
    wait_until(
        lambda: FusionStatus.PASSTHROUGH in modes_since(down, seen), 10, "pass-through without thermal"
    )
    assert FusionStatus.HELD in modes_since(down, seen)
    graph.camera("--names", "thermal")
    seen = len(down.statuses)
    wait_until(lambda: FusionStatus.FUSED in modes_since(down, seen), 40, "fused after thermal came back")

    kill(graph, fusion)
    seen = len(down.statuses)
    graph.fusion(installed=True)
    wait_until(lambda: FusionStatus.FUSED in modes_since(down, seen), 40, "fused after the node came back")
