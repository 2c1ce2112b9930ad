"""`fusionproxy calibrate`: with a board, or from recorded scenes."""

import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import yaml

from fusionproxy_ros.alignment.align_images import centred_guess
from fusionproxy_ros.calibrate import collect
from fusionproxy_ros.calibrate.board import Board
from fusionproxy_ros.calibrate.board_report import calibrate_board
from fusionproxy_ros.calibrate.from_scenes import (
    CONFIDENT,
    checkerboard_overlay,
    common_homography,
    correct_rotation,
)
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.calibration_files import load_calibration, save_calibration
from fusionproxy_ros.geometry.registration import Registration

OVERLAY_PAIRS = 3  # pairs in overlay.png


def from_board(args: Namespace) -> int:
    """Calibrate both cameras from views of a board."""
    columns, rows = args.board
    board = Board(args.pattern, columns, rows, args.square_m)
    if args.bag:
        shots = collect.from_bag(args.bag, board, args.rgb_topic, args.thermal_topic)
    else:
        shots = collect.from_folders(args.rgb, args.thermal, board)
    calibrate_board(shots, board, args.out)
    return 0


def from_scenes(args: Namespace, pictures: dict[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """Align recorded pairs (rgb_luma, thermal) by name; 1 when the result is not to be trusted."""
    args.out.mkdir(parents=True, exist_ok=True)
    names, pairs = list(pictures), list(pictures.values())
    if args.calibration:
        given = load_calibration(args.calibration)
        turned = correct_rotation(pairs, given, args.plane_depth_m)
        save_calibration(turned.calibration, args.out / "calibration.yaml")
        confidence, used, of_pair = turned.confidence, turned.used, turned.confidences
        before, after = (registration.extrinsic(c, args.plane_depth_m) for c in (given, turned.calibration))
        result, numbers = "calibration.yaml", {"turn_deg": turned.turn_deg.tolist()}
        of_pairs = [{"confidence": value} for value in of_pair]
    else:
        found = common_homography(pairs)
        (args.out / "homography.yaml").write_text(
            yaml.safe_dump({"homography": found.joint.homography.ravel().tolist()}, default_flow_style=None)
        )
        confidence, used = found.joint.confidence, found.used
        before = registration.homography(centred_guess(*(one.shape[::-1] for one in pairs[0][::-1])))
        after = registration.homography(found.joint.homography)
        result, numbers = "homography.yaml", {"homography": found.joint.homography.tolist()}
        of_pairs = [
            {"confidence": one.confidence, "homography": one.homography.tolist()} for one in found.pairs
        ]
    numbers |= {"confidence": confidence, "used": [names[i] for i in used]}
    numbers["pairs"] = dict(zip(names, of_pairs, strict=True))
    (args.out / "report.json").write_text(json.dumps(numbers, indent=2) + "\n")
    _write_overlays(args.out / "overlay.png", [pairs[i] for i in used or [0]], before, after)
    trusted = confidence >= CONFIDENT
    print(f"\n  {len(used)} of {len(names)} pairs agree, confidence {confidence:.2f}")
    if not trusted:
        print(
            "  Not to be trusted: the edges of the two pictures do not agree on one place. Record scenes with\n"
            "  structure that both cameras see, by day and not too near, or calibrate with a board."
        )
    print(f"\n  {args.out}/{result}  {args.out}/report.json  {args.out}/overlay.png")
    return 0 if trusted else 1


def _write_overlays(path: Path, pairs: list, before: Registration, after: Registration) -> None:
    rows = [checkerboard_overlay(rgb, thermal, before, after) for rgb, thermal in pairs[:OVERLAY_PAIRS]]
    if not cv2.imwrite(str(path), np.vstack(rows)[..., ::-1]):
        raise FusionError(f"{path} cannot be written")
