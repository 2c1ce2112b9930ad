"""Images arrive from whatever publisher a user has, or diagnostics say what to change."""

import json
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from fusionproxy_ros.trials.harness import wait_until

OK = DiagnosticStatus.OK
SECONDS, FRAMES = 6, 180  # at 30 Hz


class Diagnostics:
    def __init__(self, graph):
        self.latest = {}
        graph.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_array, 10)

    def _on_array(self, array):
        self.latest = {status.name: status for status in array.status}


def last_status(down):
    return down.statuses[-1] if down.statuses else None


@pytest.mark.parametrize(
    ("arguments", "default_segment"),
    [([], True), (["--best-effort"], False)],
    ids=["reliable with default Fast DDS settings", "best effort with the shipped profile"],
)
def test_no_640x480_frame_is_lost(graph, arguments, default_segment):
    graph.fusion({"max_latency_s": 5.0})
    down = graph.downstream(keep_pixels=False)
    camera = graph.camera("--seconds", str(SECONDS), *arguments, default_segment=default_segment)
    sent = json.loads(camera.communicate(timeout=90)[0])["sent"]
    assert sent == FRAMES
    wait_until(
        lambda: last_status(down) and last_status(down).received == FRAMES,
        5,
        f"all frames, {last_status(down)}",
    )
    assert last_status(down).thermal_received == FRAMES
    assert len(down.images) == FRAMES


@pytest.mark.parametrize("more", [[], ["--no-camera-info"]], ids=["with camera_info", "without"])
def test_a_best_effort_camera_with_default_settings_makes_diagnostics_say_what_to_do(graph, more):
    diagnostics = Diagnostics(graph)
    graph.fusion()
    graph.downstream(keep_pixels=False)
    graph.camera("--best-effort", *more, default_segment=True)

    def rgb():
        return diagnostics.latest.get("fusionproxy: /rgb/image_raw")

    wait_until(
        lambda: rgb() and "FASTDDS_DEFAULT_PROFILES_FILE=" in rgb().message, 40, f"the advice, {rgb()}"
    )
    assert rgb().level == DiagnosticStatus.ERROR
    path = rgb().message.split("FASTDDS_DEFAULT_PROFILES_FILE=")[1].split()[0]
    assert "<segment_size>" in Path(path).read_text()


def test_an_incompatible_publisher_is_named_when_the_user_insists_on_reliable(graph):
    diagnostics = Diagnostics(graph)
    graph.fusion({"reliability": "reliable"})
    graph.downstream(keep_pixels=False)
    graph.camera("--best-effort")
    name = "fusionproxy: /thermal/image_raw"
    wait_until(
        lambda: name in diagnostics.latest and "RELIABILITY" in diagnostics.latest[name].message,
        40,
        "the name",
    )
    assert diagnostics.latest[name].level == DiagnosticStatus.ERROR
    assert "set the parameter reliability to auto" in diagnostics.latest[name].message


def test_a_silent_graph_is_an_error_and_a_fusing_one_is_ok(graph):
    diagnostics = Diagnostics(graph)
    graph.fusion()
    graph.downstream(keep_pixels=False)
    rgb = "fusionproxy: /rgb/image_raw"
    wait_until(
        lambda: rgb in diagnostics.latest and "no publisher" in diagnostics.latest[rgb].message,
        30,
        "no publisher",
    )
    assert diagnostics.latest["fusionproxy: fusion"].level == DiagnosticStatus.ERROR
    graph.camera()

    def fusing():
        latest = diagnostics.latest
        return latest["fusionproxy: fusion"].message == "fusing" and {s.level for s in latest.values()} == {
            OK
        }

    wait_until(fusing, 40, "fusing, and all of it OK")
