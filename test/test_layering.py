"""The rules of the house, read from the imports: where each file lies, what it may import, and what it must not load.

The rooms and their order are house.ROOMS.
"""

import ast
import sys
from pathlib import Path

import pytest
from house import MAX_FILES, ROOMS, House, circles, read_house, upward

import fusionproxy_ros
from fusionproxy_ros.cli.__main__ import PACKAGES_OF_PIP, ROS

HOUSE = read_house(Path(fusionproxy_ros.__file__).parent)
GPU_HALF = ("fusion.gpu", "fusion.network")
ROS_SIDE = ("ros", "trials", "bags.replay")
OPTIONAL_ROS = {"message_filters", "tf2_ros"}  # the node does its work without them


def within(name, places):
    """Whether a module is one of `places` or lies in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


# --- the rules: what breaks each of them, as sentences ----------------------------------------------------------


def misplaced(house: House) -> list[str]:
    """Every file lies in a room of the list, and every room of the list is there."""
    files = {
        name: module.path.relative_to(house.folder).parts for name, module in house.modules.items() if name
    }
    return [f"{name} lies in no room" for name, parts in files.items() if len(parts) == 1] + [
        f"{name} lies in {'/'.join(parts[:-1])}, which is no room"
        for name, parts in files.items()
        if len(parts) > 1 and (len(parts) > 2 or parts[0] not in ROOMS)
    ] + [f"there is no room {room}" for room in ROOMS if room not in house.rooms]  # fmt: skip


def crowded(house: House) -> list[str]:
    """A room can be taken in at a glance; cli/ may grow, since it has a file for each sub-command."""
    return [
        f"{room} has {count} files"
        for room in ROOMS
        if room in house.rooms and room != "cli" and (count := house.files(room)) > MAX_FILES
    ]


def furnished(house: House) -> list[str]:
    """A room's __init__.py says what the room is for; code lies in files with names."""
    found = []
    for room in ROOMS:
        if room in house.rooms:
            body = house.modules[room].tree.body if room in house.modules else []
            if (
                len(body) != 1
                or not isinstance(body[0], ast.Expr)
                or not isinstance(body[0].value, ast.Constant)
            ):
                found.append(f"{room}/__init__.py is not one docstring")
    return found


def dangling(house: House) -> list[str]:
    """What is imported is there; a late import would tell only when it runs."""
    return [
        f"{module.name} imports {one.name}, which is not there"
        for module in house.modules.values()
        for one in module.imports
        if house.own(one) is not None and house.own(one) not in house.modules
    ]


def circular(house: House) -> list[str]:
    """No file needs, by whatever way, a file that needs it."""
    return [f"a circle: {', '.join(group)}" for group in circles(house.arrows)]


def stray_torch(house: House) -> list[str]:
    """Only who trains or uses a GPU waits for torch; the rest of fusion/ may ask for it late, when a GPU is there."""
    found = []
    for name, module in house.modules.items():
        if within(name, ("distill", *GPU_HALF)):
            continue
        if any(one.top == "torch" and not (one.late and within(name, ["fusion"])) for one in module.imports):
            found.append(f"{name} imports torch")
        elif "torch" in house.loaded_by(module):
            found.append(f"{name} loads torch by what it imports")
    return found


def stray_ros(house: House) -> list[str]:
    """Only the live node, what tries it and the replay of recordings need ROS."""
    names = {name.replace("fusionproxy_ros", house.folder.name) for name in ROS | OPTIONAL_ROS}
    found = []
    for name, module in house.modules.items():
        if within(name, ROS_SIDE):
            continue
        if direct := {house.foreign(one) for one in module.imports} & names:
            found.append(f"{name} imports {', '.join(sorted(filter(None, direct)))}")
        elif loaded := house.loaded_by(module) & names:
            found.append(f"{name} loads {', '.join(sorted(loaded))} by what it imports")
    return found


RULES = [misplaced, crowded, furnished, dangling, upward, circular, stray_torch, stray_ros]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert not (breaches := rule(HOUSE)), "\n".join(breaches)


def test_the_command_knows_a_cure_for_every_library_that_it_may_find_missing():
    """Of all that a sub-command imports, at whatever distance; an import that catches its absence needs none."""
    reached, todo = set(), [name for name, module in HOUSE.modules.items() if module.room == "cli"]
    while todo:
        reached.add(name := todo.pop())
        todo += {HOUSE.own(one) for one in HOUSE.modules[name].imports} & HOUSE.modules.keys() - reached
    needed = {
        HOUSE.foreign(one)
        for name in reached
        for one in HOUSE.modules[name].imports
        if not one.guarded and not one.typing and HOUSE.foreign(one)
    }
    assert "numpy" in needed
    standard = sys.stdlib_module_names | {"compression"}  # from Python 3.14 on
    assert not (unknown := needed - standard - ROS - PACKAGES_OF_PIP.keys()), unknown


# --- each rule sees what breaks it ------------------------------------------------------------------------------


@pytest.fixture
def small_house(tmp_path):
    """Builds a package of all rooms that keeps every rule, but for `files`: path -> text."""

    def build(files: dict[str, str] | None = None) -> House:
        folder = tmp_path / "package"
        sound = {f"{room}/__init__.py": '"""What it is for."""\n' for room in ROOMS}
        sound |= {
            "__init__.py": "",
            "core/frames.py": "import numpy\n",
            "fusion/gpu.py": "import torch\n\nfrom package.core import frames\n",
            "fusion/fuser.py": "def pick():\n    import torch\n\n    from package.fusion.gpu import Gpu\n",
            "ros/node.py": "import rclpy\n\nfrom package.fusion.fuser import pick\nfrom package.msg import Status\n",
            "bags/replay.py": "from rclpy.qos import QoSProfile\n\nfrom package.ros import node\n",
            "distill/train.py": "import torch\n\nfrom package.fusion import fuser\n",
            "cli/train.py": "def run():\n    from package.distill import train\n    from package.ros import node\n",
        }
        for path, text in (sound | (files or {})).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return read_house(folder)

    return build


def test_a_sound_house_breaks_no_rule(small_house):
    assert [breach for rule in RULES for breach in rule(small_house())] == []


LATE = "def work():\n    "
TYPES = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    "


@pytest.mark.parametrize(
    ("rule", "path", "text", "breach"),
    [
        (misplaced, "helpers.py", "", "helpers lies in no room"),
        (misplaced, "utils/things.py", "", "utils.things lies in utils, which is no room"),
        (misplaced, "core/deep/things.py", "", "core.deep.things lies in core/deep, which is no room"),
        (furnished, "core/__init__.py", '"""Words."""\nimport numpy\n', "core/__init__.py is not one docstring"),
        (furnished, "core/__init__.py", "", "core/__init__.py is not one docstring"),
        (dangling, "cli/x.py", f"{LATE}import package.core.no", "cli.x imports package.core.no, which is not there"),
        (upward, "core/x.py", "from package.ros import node", "core.x imports ros.node"),
        (upward, "core/x.py", "from package.ros.node import Node", "core.x imports ros.node"),
        (upward, "core/x.py", "import package.ros.node", "core.x imports ros.node"),
        (upward, "core/x.py", "from ..ros import node", "core.x imports ros.node"),
        (upward, "core/x.py", f"{LATE}from package.ros import node", "core.x imports ros.node"),
        (upward, "core/x.py", f"{TYPES}from package.ros.node import Node", "core.x imports ros.node"),
        (circular, "fusion/gpu.py", f"{LATE}import package.fusion.fuser", "a circle: fusion.fuser, fusion.gpu"),
        (circular, "fusion/gpu.py", "from . import fuser", "a circle: fusion.fuser, fusion.gpu"),
        (stray_torch, "fusion/x.py", "import torch", "fusion.x imports torch"),
        (stray_torch, "fusion/x.py", "try:\n    import torch\nexcept ImportError:\n    pass", "fusion.x imports torch"),
        (stray_torch, "report/x.py", f"{LATE}from torch import nn", "report.x imports torch"),
        (stray_torch, "report/x.py", "from package.fusion import gpu", "report.x loads torch by what it imports"),
        (stray_ros, "core/x.py", f"{LATE}import rclpy.qos", "core.x imports rclpy"),
        (stray_ros, "core/x.py", "from sensor_msgs.msg import Image", "core.x imports sensor_msgs"),
        (stray_ros, "core/x.py", "from package.msg import Status", "core.x imports package.msg"),
        (stray_ros, "bags/x.py", "from package.ros import node", "bags.x loads package.msg, rclpy by what it imports"),
    ],
)  # fmt: skip
def test_each_rule_sees_what_breaks_it(small_house, rule, path, text, breach):
    assert breach in rule(small_house({path: text}))


def test_a_room_that_is_too_full_or_absent_is_seen(small_house):
    assert crowded(small_house({f"core/file_{n}.css": "" for n in range(MAX_FILES)})) == ["core has 14 files"]
    house = small_house()
    (house.folder / "metrics/__init__.py").unlink()
    assert "there is no room metrics" in misplaced(read_house(house.folder))


def test_types_of_a_gpu_s_parts_may_be_named_without_loading_torch(small_house):
    house = small_house({"pipeline/x.py": f"{TYPES}from package.fusion.gpu import Gpu"})
    assert not stray_torch(house)
