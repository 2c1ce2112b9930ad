"""The `fusionproxy` command: its parser, and what it says where a sub-command cannot do its work."""

import argparse
import sys

from fusionproxy_ros.cli import (
    bench,
    calibrate,
    demo,
    evaluate,
    fuse_bag,
    fuse_pairs,
    make_bag,
    replay,
    report,
    soak,
)
from fusionproxy_ros.core.errors import FusionError

# In the order in which --help shows them.
COMMANDS = (demo, fuse_pairs, fuse_bag, make_bag, replay, report, calibrate, soak, bench, evaluate)

# What a sub-command may find missing when it imports its libraries, and the cure. Anything else that cannot be imported
# is a fault of ours and shows its traceback.
ROS = frozenset(
    {
        "ament_index_python",
        "builtin_interfaces",
        "diagnostic_msgs",
        "fusionproxy_ros.msg",  # generated when this package is built
        "lifecycle_msgs",
        "rcl_interfaces",
        "rclpy",
        "rosgraph_msgs",
        "sensor_msgs",
        "std_msgs",
        "std_srvs",
    }
)
PACKAGES_OF_PIP = {
    "apsw": "apsw",
    "backports": "backports.zstd",
    "cv2": "opencv-python-headless",
    "diffusers": "diffusers",
    "jinja2": "jinja2",
    "lz4": "lz4",
    "matplotlib": "matplotlib",
    "mcap": "mcap",
    "numpy": "numpy",
    "rosbags": "-U rosbags",
    "ruamel": "ruamel.yaml",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "torch": "torch",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command with all its sub-commands."""
    whole = argparse.ArgumentParser(
        prog="fusionproxy", description="Thermal sight for any RGB perception stack."
    )
    commands = whole.add_subparsers(dest="command", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        sentence = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        one = commands.add_parser(name, help=sentence[:1].lower() + sentence[1:])
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return whole


def cure(error: ImportError) -> str | None:
    """What is missing and how to get it, in one line; None where nobody but us can mend it."""
    name, told = error.name or "", " ".join(str(error).split())
    top = name.partition(".")[0]
    if top in ROS or ".".join(name.split(".")[:2]) in ROS:
        return f"needs ROS 2 and this package built ({told}): run make install or colcon build"
    if top in PACKAGES_OF_PIP:
        return f"needs {top} ({told}): pip install {PACKAGES_OF_PIP[top]}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Entry of the `fusionproxy` command; the exit code."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except FusionError as error:
        problem = str(error)
    except ImportError as error:
        found = cure(error)
        if found is None:
            raise
        problem = f"{args.command} {found}"
    except KeyboardInterrupt:
        return 130
    print(f"fusionproxy: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
