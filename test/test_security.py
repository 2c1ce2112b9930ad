"""No way from a message, a parameter or a file into a shell, eval or pickle; and an SROS2 policy that sros2 takes."""

import ast
import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import fusionproxy_ros

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fusionproxy_ros.__file__).parent
POLICY = ROOT / "config" / "sros2_policy.xml"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "launch").glob("*.py"), *(ROOT / "scripts").glob("*")])
NAMES = [str(path.relative_to(PACKAGE.parent if PACKAGE in path.parents else ROOT)) for path in SOURCES]

# Modules that turn bytes into objects or text into code.
UNSAFE_MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"),
    *("code", "codeop", "pty", "pdb", "runpy"),
}
UNSAFE_BUILTINS = {"eval", "exec", "compile", "__import__"}
# The end of a dotted name, as it is written.
UNSAFE_CALLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *(f"os.{verb}{end}" for verb in ("exec", "spawn") for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("np.fromregex", "pd.eval", "pandas.read_pickle", "pd.read_pickle", "logging.config.fileConfig"),
}  # fmt: skip
# These start processes of our own: the demo and the soak test, which are commands and no part of the node.
MAY_START_PROCESSES = {"demo", "soak", "faults"}


def tree(path):
    return ast.parse(path.read_text())


def dotted(node):
    """ "os.path.join" of such an expression; "" of another."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def imported(path):
    """Full names of all modules and of what is taken from them."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def found_in(path):
    """What a file must not hold, each with its line."""
    for name in imported(path):
        if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS:
            yield f"import {name}"
    for call in calls(path):
        name, where = dotted(call.func), f"line {call.lineno}"
        if name in UNSAFE_BUILTINS or name in UNSAFE_CALLS:
            yield f"{where}: {name}"
        for keyword in call.keywords:
            if keyword.arg in ("shell", "allow_pickle"):
                yield f"{where}: {keyword.arg}="


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_is_evaluated_unpickled_or_given_to_a_shell(path):
    assert not list(found_in(path))


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_only_the_demo_and_the_soak_test_start_processes_and_from_lists_of_arguments(path):
    starts = [call for call in calls(path) if dotted(call.func).startswith("subprocess.")]
    if "subprocess" in {name.split(".")[0] for name in imported(path)}:
        assert path.stem in MAY_START_PROCESSES
    for call in starts:
        # A text would be split by a shell's rules, or run as one.
        assert call.args and not isinstance(call.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp)), (
            call.lineno
        )


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "import pickle",
        "from pickle import loads",
        "os.system(x)",
        "yaml.load(x)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_scan_sees_what_it_looks_for(tmp_path, line):
    path = tmp_path / "bad.py"
    path.write_text(line)
    assert list(found_in(path))


def node_sources():
    """The files that the live node is made of: `node` and all that it imports, directly or not."""
    seen, waiting = set(), ["node"]
    while waiting:
        name = waiting.pop()
        if name not in seen and (PACKAGE / f"{name}.py").is_file():
            seen.add(name)
            ours = [
                n.split(".")[1:] for n in imported(PACKAGE / f"{name}.py") if n.startswith("fusionproxy_ros.")
            ]
            waiting += [parts[0] for parts in ours if parts]
    return [PACKAGE / f"{name}.py" for name in sorted(seen)]


WRITERS = {
    "write_text",
    "write_bytes",
    "imwrite",
    "imwritemulti",
    "savetxt",
    "unlink",
    "rename",
    "rmdir",
    "mkdir",
    "touch",
}
REMOVERS = {
    "remove",
    "unlink",
    "rmdir",
    "rmtree",
    "rename",
    "replace",
    "makedirs",
    "mkdir",
    "chmod",
    "symlink",
}


def writes(call):
    name = dotted(call.func)
    end = call.func.attr if isinstance(call.func, ast.Attribute) else name
    if end == "open":
        modes = [
            a.value
            for a in [*call.args[1:2], *(k.value for k in call.keywords)]
            if isinstance(a, ast.Constant)
        ]
        return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)
    return end in WRITERS or (name.startswith(("os.", "shutil.")) and end in REMOVERS)


def test_the_node_writes_no_file_whatever_path_a_parameter_names():
    """Saving is left to functions named so, for the offline tools; nothing that the node runs calls them."""
    for path in node_sources():
        for scope in tree(path).body:
            for function in [
                scope,
                *(n for n in getattr(scope, "body", []) if isinstance(n, ast.FunctionDef)),
            ]:
                name = getattr(function, "name", "")
                if name.startswith(("save_", "_write")) or isinstance(function, ast.ClassDef):
                    continue
                for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                    told = f"{path.name}:{call.lineno} {dotted(call.func)}"
                    assert not writes(call), told
                    assert not dotted(call.func).split(".")[-1].startswith(("save_", "_write")), told


def test_the_node_is_more_than_its_own_file():
    assert {"node", "rig", "calibration", "student", "messages"} <= {path.stem for path in node_sources()}


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
