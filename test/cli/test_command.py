"""The `fusionproxy` command itself: exit codes, and errors that name cause and cure in one line."""

import pytest

from fusionproxy_ros.cli import make_bag
from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.core.errors import FusionError

ARGUMENTS = ["make-bag", "--rgb", "rgb", "--thermal", "thermal", "--out", "out"]


@pytest.fixture
def failing(monkeypatch):
    """Lets a sub-command raise an error; its exit code."""

    def run_with(error):
        def fail(args):
            raise error

        monkeypatch.setattr(make_bag, "run", fail)
        return main(ARGUMENTS)

    return run_with


@pytest.mark.parametrize("arguments", [["demo", "--seconds", "0"], ["demo", "--thermal-hz", "-9"]])
def test_impossible_numbers_are_refused_before_anything_runs(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "is not a positive number" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_ctrl_c_is_none(failing, capsys):
    assert failing(FusionError("rgb: no such folder")) == 2
    assert capsys.readouterr().err == "fusionproxy: rgb: no such folder\n"
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "pip install opencv-python-headless"),
        (ModuleNotFoundError("No module named 'rosbags'", name="rosbags"), "pip install -U rosbags"),
        (ModuleNotFoundError("No module named 'mcap'", name="mcap.records"), "pip install mcap"),
        (ModuleNotFoundError("No module named 'rclpy'", name="rclpy"), "run make install or colcon build"),
        (ImportError("libfoo.so\nis not there", name="rclpy._rclpy_pybind11"), "(libfoo.so is not there)"),
        (ModuleNotFoundError("none", name="fusionproxy_ros.msg"), "run make install or colcon build"),
        (ModuleNotFoundError("none", name="fusionproxy_ros.msg._status"), "run make install or colcon build"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_cure_in_one_line(failing, capsys, error, told):
    assert failing(error) == 2
    line = capsys.readouterr().err
    assert line.startswith("fusionproxy: make-bag needs ") and told in line and line.count("\n") == 1


@pytest.mark.parametrize("name", ["fusionproxy_ros.bags.make_bag", "fusionproxy_ros", "something_else", None])
def test_what_nobody_but_us_can_mend_keeps_its_traceback(failing, name):
    with pytest.raises(ImportError, match="broken"):
        failing(ImportError("broken", name=name))
