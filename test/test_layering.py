"""A frame travels down the list of files: each imports only files above it, and only the ROS shell imports ROS."""

import ast
import subprocess
import sys
from pathlib import Path

import fusionproxy_ros

ORDER = [
    "frames", "memory", "messages", "shutter", "sync", "sync_policy", "lens", "calibration", "registration",
    "alignment", "misalignment", "normalisation", "restraint", "checkpoint", "colour", "native", "student",
    "device", "fuser", "worker", "parameters", "declared", "rig", "guard", "status", "health", "ports",
    "transport", "tf", "inputs", "cameras", "node", "start", "scene", "bench", "demo", "faults", "soak",
    "folders", "cli",
]  # fmt: skip
ROS_SHELL = {
    "sync_policy",
    "declared",
    "health",
    "transport",
    "tf",
    "inputs",
    "cameras",
    "node",
    "start",
    "demo",
    "faults",
    "soak",
}
ROS = {
    "rclpy",
    "sensor_msgs",
    "std_srvs",
    "std_msgs",
    "rcl_interfaces",
    "diagnostic_msgs",
    "ament_index_python",
    "lifecycle_msgs",
    "rosgraph_msgs",
    "tf2_ros",
    "message_filters",
}
PACKAGE = Path(fusionproxy_ros.__file__).parent


def imports(path):
    """Top-level packages and modules of our own that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def own(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("fusionproxy_ros.")}


def test_every_file_has_its_place_in_the_order():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


def test_each_file_imports_only_files_above_it():
    for index, name in enumerate(ORDER):
        below = own(PACKAGE / f"{name}.py") & set(ORDER[index:])
        assert not below, f"{name}.py imports {below}"


def test_only_the_ros_shell_imports_ros():
    for name in ORDER:
        found = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")} & ROS
        assert not found or name in ROS_SHELL, f"{name}.py imports {found}"


def test_training_calibrating_and_recordings_are_imported_by_the_command_alone():
    for name in ORDER:
        assert not {"distill", "calibrate", "bags"} & own(PACKAGE / f"{name}.py") or name == "cli"


def test_recordings_need_ros_only_to_be_replayed():
    for path in (PACKAGE / "bags").glob("*.py"):
        needs = {module.split(".")[0] for module in imports(path)} & ROS | own(path) & ROS_SHELL
        assert not needs or path.stem == "replay", f"{path.name} imports {needs}"


def test_only_who_trains_or_uses_a_gpu_waits_for_torch():
    modules = ["cli", "fuser", "bags.make", "bags.fuse", "bags.recording", "bags.writing"]
    try:
        import rclpy  # noqa: F401

        modules += ["bags.replay", "demo", "soak", "start", "node"]
    except ImportError:
        pass
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(f'fusionproxy_ros.{name}')\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, *modules]).returncode == 0
