"""Fuse two folders of images that share file names."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fusionproxy_ros.core.arguments import positive

if TYPE_CHECKING:
    from fusionproxy_ros.geometry.registration import Registration


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy fuse-pairs`."""
    parser.add_argument("--rgb", type=Path, required=True, help="folder of RGB images")
    parser.add_argument(
        "--thermal", type=Path, required=True, help="folder of thermal images, 8 or 16 bit, one channel"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the fused PNGs")
    geometry = parser.add_mutually_exclusive_group()
    geometry.add_argument(
        "--homography", type=Path, help="file with a 3x3 matrix, thermal pixel -> RGB pixel"
    )
    geometry.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    parser.add_argument(
        "--plane-depth-m", type=positive, default=20.0, help="depth at which --calibration is exact"
    )
    parser.add_argument(
        "--student", type=Path, help="checkpoint (.safetensors); the shipped one if not given"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: Namespace) -> int:
    """Fuse two folders; 1 when a pair was not fused or a file could not be used, each of which is named."""
    from contextlib import nullcontext

    import cv2
    from tqdm import tqdm

    from fusionproxy_ros.core.allocator import keep_freed_memory
    from fusionproxy_ros.core.frames import Frame, Mode, Pair
    from fusionproxy_ros.core.image_files import InputError, partners_in, read_rgb_file, read_thermal_file
    from fusionproxy_ros.fusion.fuser import Fuser
    from fusionproxy_ros.fusion.settings import GainSettings
    from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
    from fusionproxy_ros.pipeline.answers import Answers
    from fusionproxy_ros.pipeline.live_registration import CurrentRegistration

    pairs, problems = partners_in(args.rgb, args.thermal)
    current = CurrentRegistration(_registration(args))
    keep_freed_memory()
    fuser = Fuser(read_weights(args.student or DEFAULT_STUDENT), GainSettings(), args.device)
    answers = Answers(lambda _: current, lambda: nullcontext(fuser))
    args.out.mkdir(parents=True, exist_ok=True)
    fused = 0
    for index, (name, (rgb_path, thermal_path)) in enumerate(tqdm(pairs.items(), desc="fusing", unit="pair")):
        try:
            rgb = Frame(0, "", read_rgb_file(rgb_path), "bgr8", source=rgb_path)
            thermal = Frame(0, "", read_thermal_file(thermal_path), "", source=thermal_path)
            # Each pair is a scene of its own: a new epoch starts the AGC afresh.
            made = answers.answer(Pair(rgb, thermal, Mode.FUSED, epoch=index)).fused
            if not cv2.imwrite(str(args.out / f"{name}.png"), made.pixels):
                raise InputError(f"{args.out / name}.png: cannot be written")
        except InputError as error:
            problems.append(str(error))
            continue
        if made.mode is Mode.FUSED:
            fused += 1
        if made.reason:
            tqdm.write(f"{name}: {made.mode.name}: {made.reason}", file=sys.stderr)
    for problem in problems:
        print(f"fusionproxy: {problem}", file=sys.stderr)
    print(f"fused {fused} of {len(pairs)} pairs into {args.out}")
    return 1 if problems or fused < len(pairs) else 0


def _registration(args: Namespace) -> "Registration":
    from fusionproxy_ros.geometry.calibration_files import load_calibration, load_homography
    from fusionproxy_ros.geometry.registration import extrinsic, homography, identity

    if args.homography:
        return homography(load_homography(args.homography))
    if args.calibration:
        return extrinsic(load_calibration(args.calibration), args.plane_depth_m)
    return identity()
