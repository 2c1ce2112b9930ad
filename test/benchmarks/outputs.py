"""The bytes that the package makes of fixed inputs: pictures, recordings. Run it before and after a change and compare.

python test/benchmarks/outputs.py OUT [--pairs FOLDER]     writes them into OUT, prints the SHA-256 of each file

FOLDER holds rgb/ and thermal/ of real pairs, such as $FUSIONPROXY_DATA/pairs/msrs. Fused: the synthetic road as a
folder and as a recording (the demo's frames through the pure core), with each kind of registration, and FOLDER.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

FRAMES = 24
HZ = 30.0
PARAMETERS = """/**:
  ros__parameters:
    debug_images: true
    registration:
      mode: extrinsic
      calibration_file: {calibration}
      plane_depth_m: 12.0
    normalisation:
      time_constant_s: 0.3
"""


def run(*arguments) -> None:
    """One `fusionproxy` command, which must succeed."""
    if code := main([str(argument) for argument in arguments]):
        sys.exit(f"fusionproxy {arguments[0]} ended with {code}")


def write_scene(folder: Path) -> Path:
    """FRAMES frames of the road as rgb/ and thermal/, and their calibration; its path."""
    calibration = default_calibration()
    road = NightRoad(calibration)
    for name in ("rgb", "thermal"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(FRAMES):
        cv2.imwrite(str(folder / "rgb" / f"{number:04d}.png"), road.rgb(number / HZ)[..., ::-1])
        cv2.imwrite(str(folder / "thermal" / f"{number:04d}.png"), road.thermal(number / HZ))
    save_calibration(calibration, folder / "calibration.yaml")
    np.savetxt(folder / "homography.txt", [[1.02, 0.01, 3.5], [-0.02, 0.99, -2.0], [1e-5, 2e-5, 1.0]])
    return folder / "calibration.yaml"


def write_outputs(out: Path, pairs: Path | None) -> None:
    """Everything into `out`."""
    scene = out / "scene"
    calibration = write_scene(scene)
    (out / "parameters.yaml").write_text(PARAMETERS.format(calibration=calibration.resolve()))
    folders = "--rgb", scene / "rgb", "--thermal", scene / "thermal"
    run("make-bag", *folders, "--out", out / "bag", "--hz", HZ, "--calibration", calibration)
    run("fuse-bag", out / "bag", "--out", out / "fused_by_tf")
    run("fuse-bag", out / "bag", "--out", out / "fused_by_file", "--params-file", out / "parameters.yaml")
    run("fuse-pairs", *folders, "--out", out / "pairs_extrinsic", "--calibration", calibration)
    run("fuse-pairs", *folders, "--out", out / "pairs_homography", "--homography", scene / "homography.txt")
    if pairs:
        given = "--rgb", pairs / "rgb", "--thermal", pairs / "thermal"
        run("fuse-pairs", *given, "--out", out / "pairs_real")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path)
    args = parser.parse_args()
    write_outputs(args.out, args.pairs)
    for path in sorted(path for path in args.out.rglob("*") if path.is_file()):
        if path.name not in ("parameters.yaml",):
            print(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(args.out))
