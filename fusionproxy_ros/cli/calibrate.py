"""Find out how the cameras sit, with a board or from scenes."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fusionproxy_ros.core.arguments import positive

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy calibrate`."""
    parser.add_argument("--rgb", type=Path, help="folder of RGB images")
    parser.add_argument(
        "--thermal", type=Path, help="folder of thermal images of the same names, 8 or 16 bit"
    )
    parser.add_argument("--bag", type=Path, help="rosbag2 recording (sqlite3 or MCAP) instead of the folders")
    parser.add_argument("--rgb-topic", help="in the bag; found by type and name when not given")
    parser.add_argument("--thermal-topic", help="in the bag; found by type and name when not given")
    parser.add_argument("--board", type=_board, default=(9, 6), help="inner corners or circles, COLUMNSxROWS")
    parser.add_argument(
        "--square-m", type=positive, help="distance between neighbours on the board, in metres"
    )
    parser.add_argument(
        "--pattern", choices=("checkerboard", "circles", "asymmetric_circles"), default="checkerboard"
    )
    parser.add_argument(
        "--from-scenes", action="store_true", help="no board: any recorded pairs of one rig; a homography"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        help="with --from-scenes: correct the rotation of this calibration instead",
    )
    parser.add_argument(
        "--plane-depth-m",
        type=positive,
        default=20.0,
        help="with --calibration: how far away the scenes are",
    )
    parser.add_argument("--out", type=Path, default=Path("out/calibration"), help="folder of the results")


def _board(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdigit() and rows.isdigit()):
        raise ArgumentTypeError(f"{text} is not COLUMNSxROWS, such as 9x6")
    return int(columns), int(rows)


def run(args: Namespace) -> int:
    """Find out how the cameras sit; 1 when scenes gave nothing to be trusted."""
    from fusionproxy_ros.calibrate import command
    from fusionproxy_ros.core.image_files import InputError

    if not args.bag and not (args.rgb and args.thermal):
        raise InputError("no pictures: give --rgb and --thermal (folders that share file names), or --bag")
    if args.from_scenes:
        return command.from_scenes(args, _pictures(args))
    if not args.square_m:
        raise InputError(
            "--square-m is missing: measure the distance between two neighbouring corners or circles of the "
            "board, in metres; without a board use --from-scenes"
        )
    return command.from_board(args)


def _pictures(args: Namespace) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
    """Luma of RGB and thermal of every pair in the two folders, by name."""
    import cv2

    from fusionproxy_ros.core.image_files import InputError, partners_in, read_image, read_thermal_file

    if args.bag:
        raise InputError("--from-scenes reads folders: give --rgb and --thermal")
    pairs, _ = partners_in(args.rgb, args.thermal)
    return {
        name: (read_image(rgb, cv2.IMREAD_GRAYSCALE), read_thermal_file(thermal))
        for name, (rgb, thermal) in pairs.items()
    }
