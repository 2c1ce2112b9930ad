"""No way from a message, a parameter or a file into a shell, eval or pickle; and an SROS2 policy that sros2 takes."""

import importlib.util
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "config" / "sros2_policy.xml"

BAD_LINES = (
    *("eval(x)", "exec(x)", "import builtins"),
    *("import pickle", "import dill", "import joblib", "import marshal, json", "import shelve"),
    *("from pickle import loads", "import pandas as pd; pd.read_pickle(x)"),
    *("import code", "import codeop", "import pdb", "import pty", "import runpy", "import logging.config"),
    *("import os; os.system(x)", "from os import popen; popen(x)", "import os; os.execv(x, y)"),
    *("import os; os.spawnlp(x, y)", "import asyncio; asyncio.create_subprocess_shell(x)"),
    *("import subprocess", "from subprocess import run", "start(x, shell=True)"),
    *("import yaml; yaml.load(x)", "import yaml; yaml.full_load(x)", "from yaml import unsafe_load_all"),
    *("import torch; torch.load(x)", "import torch; torch.jit.load(x)", "import torch.hub"),
    *("import numpy as np; np.load(x, allow_pickle=True)", "import numpy as np; np.fromregex(x, y, z)"),
)


def complaints(*arguments, code=None):
    """What `make lint` says about security, as (file name, line, rule): ruff's S, and what pyproject.toml bans."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found = [(Path(c["filename"]).name, c["location"]["row"], c["code"]) for c in json.loads(done.stdout)]
    return [one for one in found if re.fullmatch(r"S\d+|TID251", one[2])]


@pytest.fixture(scope="module")
def ruff():
    pytest.importorskip("ruff", reason="ruff is not here: pip install ruff")


@pytest.fixture(scope="module")
def refused(ruff):
    """Those of BAD_LINES that may not stand in a file of the package."""
    found = complaints("--stdin-filename", "fusionproxy_ros/core/bad.py", "-", code="\n".join(BAD_LINES))
    return [BAD_LINES[row - 1] for _, row, _ in found]


@pytest.mark.parametrize("line", BAD_LINES)
def test_lint_refuses_what_turns_bytes_into_objects_or_text_into_code(refused, line):
    assert line in refused


@pytest.mark.parametrize("call", ['subprocess.run(f"ls {x}")', 'subprocess.run("ls", shell=True)'])
def test_where_processes_may_be_started_none_is_given_a_shell_or_a_text_made_up(ruff, call):
    code = f"import subprocess  # noqa: TID251\n{call}\n"
    found = complaints("--stdin-filename", "fusionproxy_ros/trials/bad.py", "-", code=code)
    assert {row for _, row, _ in found} == {2}


def test_nothing_in_the_package_is_evaluated_unpickled_or_given_to_a_shell(ruff):
    assert not complaints()


def test_lint_reads_the_scripts_too(ruff):
    command = [sys.executable, "-m", "ruff", "check", "--show-files"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {str(ROOT / "scripts" / name) for name in ("fusion_node", "fusionproxy")} < set(shown)


# --- SROS2


def test_the_policy_is_of_one_enclave_and_allows_by_name_only():
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    assert [enclave.get("path") for enclave in root.iter("enclave")] == ["/fusion"]
    assert [(p.get("ns"), p.get("node")) for p in root.iter("profile")] == [("/", "fusion")]
    names = [element.text for kind in ("topic", "service") for element in root.iter(kind)]
    assert names and not [name for name in names if set(name) & set("*? \n")]
    assert len(names) == len(set(names))
    assert not list(root.iter("action"))


@pytest.mark.skipif(
    importlib.util.find_spec("sros2") is None,
    reason="sros2 is not here, and in no package registry: apt install ros-$ROS_DISTRO-sros2",
)
def test_sros2_takes_the_policy_and_makes_a_signed_permission_of_it(tmp_path):
    from sros2.keystore import _enclave, _keystore, _permission  # what `ros2 security` calls

    keystore = tmp_path / "keystore"
    _keystore.create_keystore(keystore)
    _enclave.create_enclave(keystore, "/fusion")
    _permission.create_permission(keystore, "/fusion", POLICY)  # held against sros2's schema
    folder = keystore / "enclaves" / "fusion"
    permissions = (folder / "permissions.xml").read_text()
    assert "rt/fused/image" in permissions and "rt/rgb/image_raw" in permissions and "*" not in permissions
    assert b"rt/fused/image" in (folder / "permissions.p7s").read_bytes()
