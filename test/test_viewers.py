"""The viewers' settings show topics and fields that the node really publishes."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
TOPICS = {"/rgb/image_raw", "/thermal/image_raw", "/fused/image"}


def test_rviz_shows_the_three_pictures_and_the_overlay():
    config = yaml.safe_load((ROOT / "config" / "fusion.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    assert {d["Topic"]["Value"] for d in displays if d["Enabled"]} == TOPICS
    assert [d["Topic"]["Value"] for d in displays if not d["Enabled"]] == ["/fusion/debug/overlay"]


def test_every_panel_of_the_foxglove_layout_is_placed_and_every_field_exists():
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    panels = layout["configById"]

    def placed(part):
        return [part] if isinstance(part, str) else placed(part["first"]) + placed(part["second"])

    assert sorted(placed(layout["layout"])) == sorted(panels)
    assert {p["imageMode"]["imageTopic"] for p in panels.values() if "imageMode" in p} == TOPICS
    fields = set(
        re.findall(r"^[\w/]+ +(\w+)\s*(?:#.*)?$", (ROOT / "msg" / "FusionStatus.msg").read_text(), re.M)
    )
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    assert paths and {path.removeprefix("/fused/status.") for path in paths} <= fields
