"""The parameters: their manual, their checks, and what changes while the node runs."""

import re
from pathlib import Path

import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

from rclpy.parameter import Parameter

from fusionproxy_ros.core.parameter_declaration import ParameterError
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pairing.settings import SyncSettings
from fusionproxy_ros.pipeline import settings
from fusionproxy_ros.pipeline.settings import PLACES, GivenParameters, Settings, load_settings
from fusionproxy_ros.ros.parameters import changed, descriptor_of

MANUAL = Path(__file__).parents[2] / "config" / "fusion.yaml"


def test_the_manual_and_the_table_are_what_the_command_writes():
    assert MANUAL.read_text() == settings.parameter_file()
    assert (MANUAL.parents[1] / "docs" / "parameters.md").read_text() == settings.parameter_table()


def test_the_manual_gives_every_parameter_the_default_that_the_node_has():
    assert load_settings(MANUAL) == Settings()
    names = re.findall(r"^ +(\w+): \S", MANUAL.read_text(), re.M)
    assert sorted(names) == sorted(name.rpartition(".")[2] for name in PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_every_parameter_is_described_with_its_range(name):
    descriptor, declared = descriptor_of(name), PLACES[name].declaration
    assert descriptor.description.endswith(".")
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    assert [(r.from_value, r.to_value) for r in ranges] == ([declared.limits] if declared.limits else [])
    assert ("next configure" in descriptor.additional_constraints) != declared.live


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("registration.mode", "magic", "registration.mode is 'magic': choose one of identity"),
        ("registration.homography", [1.0, 2.0], "registration.homography has 2 numbers: it needs 9"),
        ("normalisation.low", 40_000.0, "set low below high"),
    ],
)
def test_impossible_values_are_refused_by_name(name, value, told):
    with pytest.raises(ParameterError, match=told):
        changed(GivenParameters({}), [Parameter(name, value=value)])


def test_a_change_reaches_the_sync_in_nanoseconds():
    new = changed(
        GivenParameters({}), [Parameter("max_hold_s", value=0.25), Parameter("use_sim_time", value=True)]
    )
    assert new.of("").sync.max_hold_ns == 250_000_000


def test_a_configured_node_refuses_what_it_would_not_follow_and_takes_the_rest():
    live = [Parameter("max_hold_s", value=0.25), Parameter("registration.mode", value="identity")]  # as it is
    assert changed(GivenParameters({}), live, only_live=True).of("").sync.max_hold_s == 0.25
    fixed = [Parameter("registration.mode", value="extrinsic")]
    with pytest.raises(ParameterError, match=r"registration.mode is read at configure: deactivate"):
        changed(GivenParameters({}), fixed, only_live=True)
    assert changed(GivenParameters({}), fixed).of("").registration.mode == "extrinsic"


def test_one_cameras_own_value_goes_before_that_of_all_and_stays_when_that_changes():
    given = GivenParameters({"cameras": ("front", "rear"), "deadline_s": 0.1, "front.deadline_s": 0.2})
    assert (given.of("front").sync.deadline_s, given.of("rear").sync.deadline_s) == (0.2, 0.1)
    given = changed(given, [Parameter("deadline_s", value=0.3)], only_live=True)
    assert (given.of("front").sync.deadline_s, given.of("rear").sync.deadline_s) == (0.2, 0.3)
    given = changed(given, [Parameter("front.deadline_s", value=0.4)], only_live=True)
    assert (given.of("front").sync.deadline_s, given.of("rear").sync.deadline_s) == (0.4, 0.3)
    with pytest.raises(ParameterError, match="read at configure"):
        changed(given, [Parameter("rear.registration.mode", value="extrinsic")], only_live=True)


def test_of_a_file_for_several_cameras_one_is_asked_for_by_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    cameras: [front, rear]\n    max_hold_s: 0.25\n"
        "    rear: {registration: {mode: extrinsic}}\n"
    )
    front, rear = load_settings(file, "front"), load_settings(file, "rear")
    assert (front.sync.max_hold_s, front.registration.mode) == (0.25, "identity")
    assert (rear.sync.max_hold_s, rear.registration.mode) == (0.25, "extrinsic")
    for wrong in None, "left":
        with pytest.raises(ParameterError, match="for the cameras front, rear: say which with --camera"):
            load_settings(file, wrong)


def test_a_file_without_ros_gives_what_the_node_would_have(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {max_hold_s: 0.25, use_sim_time: true}\n"
        "fusion:\n  ros__parameters:\n    registration: {mode: extrinsic, translation_m: [-0.1, 0.0, 0.0]}\n"
        "camera:\n  ros__parameters: {max_hold_s: 9.0}\n"
    )
    assert load_settings(file) == Settings(
        sync=SyncSettings(max_hold_s=0.25),
        registration=RegistrationSettings(mode="extrinsic", translation_m=(-0.1, 0.0, 0.0)),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/**: {ros__parameters: {max_hold: 0.5}}", "max_hold is unknown: did you mean max_hold_s"),
        ("/**: {ros__parameters: {max_hold_s: 1}}", "max_hold_s is 1: it must be float; write 0.5, not 0"),
        ("/**: {ros__parameters: {max_hold_s: 11.0}}", "must be between 0.0 and 10.0"),
        ("/**: {ros__parameters: {registration: {homography: [1, 2]}}}", "write a list of numbers"),
        ("/**: {ros__parameters: {registration: {mode: magic}}}", "choose one of identity"),
        ("camera: {ros__parameters: {max_hold_s: 1.0}}", "has no parameters for the node /fusion"),
        ("/**: {ros__parameters: {cameras: [front/left]}}", "cameras is ['front/left']: give each pair"),
        ("/**: {ros__parameters: {cameras: [a, a]}}", "give each pair another name"),
        ("/**: {ros__parameters: {cameras: [student]}}", "that no parameter begins with"),
        ("/**: {ros__parameters: {cameras: []}}", "give each pair another name"),
        ("/**: {ros__parameters: {cameras: [1]}}", "write a list of names such as front"),
        ("/**: {ros__parameters: {front: {deadline_s: 0.1}}}", "front.deadline_s is unknown"),
        (
            "/**: {ros__parameters: {cameras: [front], front: {deadline: 0.1}}}",
            "front.deadline is unknown: did you mean front.deadline_s",
        ),
        ("/**: {ros__parameters: {cameras: [front], front: {deadline_s: 2.0}}}", "front.deadline_s is 2.0"),
        (
            "/**: {ros__parameters: {cameras: [front], front: {student: {threads: 1}}}}",
            "front.student.threads is unknown",
        ),
        ("[1, 2]", "is no parameter file"),
        ("/**: {ros__parameters: 5}", "is no parameter file"),
        ("{", "is no parameter file"),
    ],
)
def test_a_file_that_the_node_would_refuse_is_refused_with_the_reason(tmp_path, text, told):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=re.escape(told)):
        load_settings(file)
