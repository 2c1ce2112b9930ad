"""config/fusion.yaml is the manual: it names every parameter with the default that the node has."""

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

from rclpy.parameter import Parameter

from fusionproxy_ros.declared import changed, describe
from fusionproxy_ros.parameters import FIELDS, ParameterError, Parameters, Settings, load_parameters

MANUAL = Path(__file__).parent.parent / "config" / "fusion.yaml"


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def manual():
    return dict(flat(yaml.safe_load(MANUAL.read_text())["/**"]["ros__parameters"]))


def test_the_manual_names_every_parameter_with_its_default():
    defaults = {
        name: list(f.default) if isinstance(f.default, tuple) else f.default for name, f in FIELDS.items()
    }
    assert manual() == defaults
    assert {k: type(v) for k, v in manual().items()} == {k: type(v) for k, v in defaults.items()}


@pytest.mark.parametrize("name", FIELDS)
def test_the_manual_says_what_may_change_at_run_time_and_the_choices(name):
    lines = [line for line in MANUAL.read_text().splitlines() if re.match(r" +\w+: +[^ #]", line)]
    line = dict(zip(manual(), lines, strict=True))[name]  # in the order of the file
    assert line.split("#")[1].strip().startswith("(live)") == FIELDS[name].metadata["live"]
    for choice in FIELDS[name].metadata["choices"]:
        assert choice in line


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_described_with_its_range(name):
    descriptor, meta = describe(name), FIELDS[name].metadata
    assert descriptor.description.endswith(".")
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    assert [(r.from_value, r.to_value) for r in ranges] == ([meta["range"]] if meta["range"] else [])
    assert ("next configure" in descriptor.additional_constraints) != meta["live"]


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
        changed(Settings({}), [Parameter(name, value=value)])


def test_a_change_reaches_the_sync_in_nanoseconds():
    new = changed(Settings({}), [Parameter("max_hold_s", value=0.25), Parameter("use_sim_time", value=True)])
    assert new.of("").sync_config().max_hold_ns == 250_000_000


def test_a_configured_node_refuses_what_it_would_not_follow_and_takes_the_rest():
    live = [Parameter("max_hold_s", value=0.25), Parameter("registration.mode", value="identity")]  # as it is
    assert changed(Settings({}), live, only_live=True).of("").max_hold_s == 0.25
    fixed = [Parameter("registration.mode", value="extrinsic")]
    with pytest.raises(ParameterError, match=r"registration.mode is read at configure: deactivate"):
        changed(Settings({}), fixed, only_live=True)
    assert changed(Settings({}), fixed).of("").registration_mode == "extrinsic"


def test_one_cameras_own_value_goes_before_that_of_all_and_stays_when_that_changes():
    settings = Settings({"cameras": ("front", "rear"), "deadline_s": 0.1, "front.deadline_s": 0.2})
    assert (settings.of("front").deadline_s, settings.of("rear").deadline_s) == (0.2, 0.1)
    settings = changed(settings, [Parameter("deadline_s", value=0.3)], only_live=True)
    assert (settings.of("front").deadline_s, settings.of("rear").deadline_s) == (0.2, 0.3)
    settings = changed(settings, [Parameter("front.deadline_s", value=0.4)], only_live=True)
    assert (settings.of("front").deadline_s, settings.of("rear").deadline_s) == (0.4, 0.3)
    with pytest.raises(ParameterError, match="read at configure"):
        changed(settings, [Parameter("rear.registration.mode", value="extrinsic")], only_live=True)


def test_of_a_file_for_several_cameras_one_is_asked_for_by_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    cameras: [front, rear]\n    max_hold_s: 0.25\n"
        "    rear: {registration: {mode: extrinsic}}\n"
    )
    front, rear = load_parameters(file, "front"), load_parameters(file, "rear")
    assert (front.max_hold_s, front.registration_mode) == (0.25, "identity")
    assert (rear.max_hold_s, rear.registration_mode) == (0.25, "extrinsic")
    for wrong in None, "left":
        with pytest.raises(ParameterError, match="for the cameras front, rear: say which with --camera"):
            load_parameters(file, wrong)


def test_a_file_without_ros_gives_what_the_node_would_have(tmp_path):
    assert load_parameters(MANUAL) == Parameters()
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {max_hold_s: 0.25, use_sim_time: true}\n"
        "fusion:\n  ros__parameters:\n    registration: {mode: extrinsic, translation_m: [-0.1, 0.0, 0.0]}\n"
        "camera:\n  ros__parameters: {max_hold_s: 9.0}\n"
    )
    assert load_parameters(file) == Parameters(
        max_hold_s=0.25, registration_mode="extrinsic", translation_m=(-0.1, 0.0, 0.0)
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
        load_parameters(file)
