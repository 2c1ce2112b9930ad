"""Fuse recordings (rosbag2, MCAP or sqlite3), every frame of them."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusionproxy_ros.core.errors import FusionError

if TYPE_CHECKING:
    from fusionproxy_ros.bags.fuse import FusedBag
    from fusionproxy_ros.pipeline.settings import Settings

MAX_REASONS = 5  # that are printed


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy fuse-bag`."""
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="folder, or .mcap or .db3 file")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the fused bag; of several BAGs, one in it for each"
    )
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument(
        "--params-file",
        type=Path,
        help="the node's parameters; else its defaults, and camera_info and tf_static of the bag where it has them",
    )
    settings.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    parser.add_argument(
        "--camera", metavar="NAME", help="of the cameras in --params-file, where it has several"
    )
    parser.add_argument("--rgb-topic", help="found by type and name when not given")
    parser.add_argument("--thermal-topic", help="found by type and name when not given")
    parser.add_argument("--copy", action="store_true", help="copy all other topics too, byte by byte")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), help="as BAG's when not given")
    parser.add_argument(
        "--compression", choices=("none", "message", "file"), default="none", help="of the fused bag, by zstd"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="students side by side; the result is the same"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}",
        metavar="INDEX/COUNT",
        help="of several BAGs only each COUNT-th, from INDEX on; torchrun sets it",
    )


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ArgumentTypeError(f"{text} is not INDEX/COUNT, such as 0/2 and 1/2")
    return int(index), int(count)


def run(args: Namespace) -> int:
    """Fuse recordings; 1 when one was damaged or no frame of it was fused, 2 when one could not be read at all."""
    from fusionproxy_ros.bags.fuse import fuse_bag
    from fusionproxy_ros.core.image_files import InputError

    settings = _settings(args)
    if same := [name for name, count in Counter(bag.stem for bag in args.bags).items() if count > 1]:
        raise InputError(
            f"several BAGs are called {same[0]}, and each is fused into --out/{same[0]}: name them apart"
        )
    worst = 0
    for bag in args.bags[args.shard[0] :: args.shard[1]]:
        out = args.out if len(args.bags) == 1 else args.out / bag.stem
        if len(args.bags) > 1 and out.exists():
            print(f"{out}: fused before")
            continue
        try:
            bag_fused = fuse_bag(
                bag,
                out,
                settings,
                rgb_topic=args.rgb_topic,
                thermal_topic=args.thermal_topic,
                copy=args.copy,
                storage=args.storage,
                compression=args.compression,
                workers=args.workers,
            )
        except FusionError as error:
            print(f"fusionproxy: {error}", file=sys.stderr)
            worst = 2
            continue
        print("\n".join(_lines(bag_fused)))
        worst = max(worst, 1 if bag_fused.damage or not bag_fused.is_fused else 0)
    return worst


def _settings(args: Namespace) -> "Settings | None":
    """Those that the user gave; None for what the recording itself has."""
    from fusionproxy_ros.core.image_files import InputError
    from fusionproxy_ros.pipeline.settings import load_settings, settings_from

    if args.camera and not args.params_file:
        raise InputError("--camera is a name in a parameter file: give --params-file too")
    if args.params_file:
        return load_settings(args.params_file, args.camera)
    if args.calibration:
        return settings_from(
            {"registration.mode": "extrinsic", "registration.calibration_file": str(args.calibration)}
        )
    return None


def _lines(bag: "FusedBag") -> Iterator[str]:
    """What came of one recording, for a terminal."""
    frames = bag.modes.total()
    yield f"{bag.out}: {frames} frames, " + ", ".join(f"{n} {name}" for name, n in bag.modes.items())
    yield f"  registration: {bag.registration}"
    for reason, count in bag.reasons.most_common(MAX_REASONS):
        yield f"  {count} frames: {reason}"
    if bag.seconds and frames:
        yield f"  {frames / bag.seconds:.1f} frames/s, {bag.recorded_s / bag.seconds:.2f} x as fast as recorded"
    for damage in bag.damage:
        yield f"  damaged: {damage}"
