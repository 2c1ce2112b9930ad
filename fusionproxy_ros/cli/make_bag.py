"""Make a recording from two folders of images, or two videos."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionproxy_ros.core.arguments import positive


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy make-bag`."""
    parser.add_argument("--rgb", type=Path, required=True, help="folder of images, or a video")
    parser.add_argument("--thermal", type=Path, required=True, help="folder with the same names, or a video")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--hz", type=positive, help="rate; the video's, or 30, when not given")
    parser.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")


def run(args: Namespace) -> int:
    """Make a recording from pictures or videos."""
    from fusionproxy_ros.bags.make_bag import make_bag
    from fusionproxy_ros.geometry.calibration_files import load_calibration

    calibration = load_calibration(args.calibration) if args.calibration else None
    count = make_bag(args.rgb, args.thermal, args.out, args.hz, calibration, args.storage)
    print(f"{args.out}: {count} pairs")
    return 0
