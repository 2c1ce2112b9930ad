"""The `fusionproxy` command."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros import calibration, registration
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.folders import InputError, images_in, read_image, read_rgb, read_thermal, suffixes
from fusionproxy_ros.frames import Frame, FusionError, Mode, Pair, RegistrationError
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.memory import keep_freed_memory
from fusionproxy_ros.normalisation import NormalisationConfig
from fusionproxy_ros.parameters import Parameters, load_parameters
from fusionproxy_ros.registration import Registration


@contextmanager
def _ros_for(what: str, cure: str = "make install") -> Iterator[None]:
    """Around the imports of a command that needs ROS, which the others do without."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what} needs ROS 2 and this package built ({error}): run {cure} or colcon build"
        ) from None


def demo(args) -> int:
    """Run the live demo; 1 when a promise was broken."""
    with _ros_for("the demo", "make demo"):
        from fusionproxy_ros.demo import run

    report = run(args.source, args.out, args.seconds, args.thermal_hz)

    def milliseconds(key):
        return f"p50 {report[key]['p50']} ms, p99 {report[key]['p99']} ms"

    kept = (
        report["answered_once"] == report["rgb_frames"]
        and not report["header_mismatches"] + report["out_of_order"]
    )
    rows = {
        "RGB frames": report["rgb_frames"],
        "answered exactly once": report["answered_once"],
        "header mismatches": report["header_mismatches"],
        "out of order": report["out_of_order"],
        "modes": ", ".join(f"{count} {name}" for name, count in report["modes"].items()),
        "frames to recover": report["recovery_frames"],
        "longest silence": f"{report['worst_gap_ms']} ms",
        "latency, all frames": milliseconds("latency_ms"),
        "latency, fused frames": milliseconds("latency_fused_ms"),
        "end to end over DDS": milliseconds("end_to_end_ms"),
        "middleware": report["rmw"],
    }
    if report["thermal_visible"] is not None:
        detail = report["thermal_visible_detail"]
        rows["hidden people shown"] = (
            f"{report['thermal_visible']:.0%} of {detail['invisible_in_rgb']} sightings"
        )
    print("\n" + "\n".join(f"  {name:<22} {value}" for name, value in rows.items()))
    print(f"\n  {args.out}/sheet.png  {args.out}/fused.mp4  {args.out}/report.json")
    return 0 if kept else 1


def _fuse_pair(fuser, register: Registration, rgb_path: Path, thermal_path: Path, index: int) -> np.ndarray:
    rgb = Frame(0, "", read_rgb(rgb_path), "bgr8")
    thermal = Frame(0, "", read_thermal(thermal_path), "")
    try:
        # Each pair is a scene of its own: a new epoch starts the AGC afresh.
        return fuser.fuse(Pair(rgb, thermal, Mode.FUSED, epoch=index), register).pixels
    except RegistrationError as error:
        raise InputError(f"{thermal_path}: {error}") from error


def fuse_pairs(args) -> int:
    """Fuse two folders; 1 when a file could not be used, each of which is named."""
    rgb_paths, thermal_paths = (images_in(folder, InputError) for folder in (args.rgb, args.thermal))
    if not rgb_paths:
        raise InputError(f"{args.rgb}: no images in it ({suffixes()})")
    if args.homography:
        register = registration.homography(calibration.load_homography(args.homography))
    elif args.calibration:
        register = registration.extrinsic(calibration.load_calibration(args.calibration), args.plane_depth_m)
    else:
        register = registration.identity()
    keep_freed_memory()
    fuser = Fuser(read_weights(args.student or DEFAULT_STUDENT), NormalisationConfig(), args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    problems = [
        f"{thermal_paths[n]}: no RGB image of that name"
        for n in sorted(thermal_paths.keys() - rgb_paths.keys())
    ]
    fused = 0
    for index, (name, rgb_path) in enumerate(tqdm(rgb_paths.items(), desc="fusing", unit="pair")):
        try:
            if name not in thermal_paths:
                raise InputError(f"{rgb_path}: no thermal image of that name")
            pixels = _fuse_pair(fuser, register, rgb_path, thermal_paths[name], index)
            if not cv2.imwrite(str(args.out / f"{name}.png"), pixels):
                raise InputError(f"{args.out / name}.png: cannot be written")
            fused += 1
        except InputError as error:
            problems.append(str(error))
    for problem in problems:
        print(f"fusionproxy: {problem}", file=sys.stderr)
    print(f"fused {fused} of {len(rgb_paths)} pairs into {args.out}")
    return 1 if problems else 0


def calibrate(args) -> int:
    """Find out how the cameras sit; 1 when scenes gave nothing to be trusted."""
    from fusionproxy_ros.calibrate import command  # training and calibration are not on the path of a frame

    if not args.bag and not (args.rgb and args.thermal):
        raise InputError("no pictures: give --rgb and --thermal (folders that share file names), or --bag")
    if not args.from_scenes:
        if not args.square_m:
            raise InputError(
                "--square-m is missing: measure the distance between two neighbouring corners or circles of the "
                "board, in metres; without a board use --from-scenes"
            )
        return command.from_board(args)
    if args.bag:
        raise InputError("--from-scenes reads folders: give --rgb and --thermal")
    rgb_paths, thermal_paths = (images_in(folder, InputError) for folder in (args.rgb, args.thermal))
    names = sorted(rgb_paths.keys() & thermal_paths.keys())
    if not names:
        raise InputError(
            f"{args.rgb} and {args.thermal} share no file name: name both pictures of a pair alike"
        )
    pictures = {
        name: (read_image(rgb_paths[name], cv2.IMREAD_GRAYSCALE), read_thermal(thermal_paths[name]))
        for name in names
    }
    return command.from_scenes(args, pictures)


def soak(args) -> int:
    """Play every fault against the live node; 1 when a promise was broken."""
    with _ros_for("the soak"):
        from fusionproxy_ros import soak
    report = soak.run(args.minutes, args.seed, args.out)
    soak.print_table(report)
    print(f"\n  {args.out}/report.json")
    return 1 if report["broken"] else 0


def bench(args) -> int:
    """Measure what a frame costs on this machine."""
    from fusionproxy_ros import bench

    bench.run(args.out, args.student, args.device, args.threads, args.frames, args.pairs)
    print(f"\n  {args.out}/bench.json  {args.out}/bench.png")
    return 0


def evaluate(args) -> int:
    """Judge students against classical fusion."""
    from fusionproxy_ros.distill import evaluate  # training and evaluation are not on the path of a frame

    return evaluate.run(args)


def fuse_bags(args) -> int:
    """Fuse recordings; 1 when one was damaged, 2 when one could not be fused at all."""
    from fusionproxy_ros.bags.fuse import fuse_bag  # recordings need libraries that the node does without

    settings = None
    if args.camera and not args.params_file:
        raise InputError("--camera is a name in a parameter file: give --params-file too")
    if args.params_file:
        settings = load_parameters(args.params_file, args.camera)
    elif args.calibration:
        settings = Parameters(registration_mode="extrinsic", calibration_file=str(args.calibration))
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
            summary = fuse_bag(
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
        print("\n".join(summary.lines()))
        worst = max(worst, bool(summary.damage))
    return worst


def make_bag(args) -> int:
    """Make a recording from pictures or videos."""
    from fusionproxy_ros.bags.make import make_bag

    rig = calibration.load_calibration(args.calibration) if args.calibration else None
    count = make_bag(args.rgb, args.thermal, args.out, args.hz, rig, args.storage)
    print(f"{args.out}: {count} pairs")
    return 0


def replay(args) -> int:
    """Play a recording onto the live graph; 1 when it was damaged."""
    with _ros_for("replay"):
        from fusionproxy_ros.bags.replay import replay
    return replay(
        args.bag,
        rate=args.rate,
        loop=args.loop,
        clock_hz=args.clock_hz,
        start_offset_s=args.start_offset_s,
        start_paused=args.start_paused,
        topics=args.topics,
        remap=args.remap,
        wait_s=args.wait_s,
    )


def report(args) -> int:
    """Write the page by which a person judges a fused recording."""
    from fusionproxy_ros.bags.report import report

    summary = report(args.source, args.out)
    print(f"{summary.headline}\n\n  {summary.page}")
    return 0


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not INDEX/COUNT, such as 0/2 and 1/2")
    return int(index), int(count)


def _board(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdigit() and rows.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is not COLUMNSxROWS, such as 9x6")
    return int(columns), int(rows)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fusionproxy", description="Thermal sight for any RGB perception stack."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("demo", help="run the live node on a synthetic night road or on your footage")
    one.add_argument(
        "--source",
        default="scene",
        help="scene, a video pair NAME_rgb.* NAME_thermal.*, or a folder with rgb/ and thermal/",
    )
    one.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for report.json, sheet.png, fused.mp4"
    )
    one.add_argument("--seconds", type=_positive, default=20.0, help="length of the run")
    one.add_argument(
        "--thermal-hz",
        type=_positive,
        default=30.0,
        help="rate of the synthetic thermal camera (9 for export-grade cores)",
    )
    one.set_defaults(run=demo)

    one = commands.add_parser("fuse-pairs", help="fuse two folders of images that share file names")
    one.add_argument("--rgb", type=Path, required=True, help="folder of RGB images")
    one.add_argument(
        "--thermal", type=Path, required=True, help="folder of thermal images, 8 or 16 bit, one channel"
    )
    one.add_argument("--out", type=Path, required=True, help="folder for the fused PNGs")
    geometry = one.add_mutually_exclusive_group()
    geometry.add_argument(
        "--homography", type=Path, help="file with a 3x3 matrix, thermal pixel -> RGB pixel"
    )
    geometry.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    one.add_argument(
        "--plane-depth-m", type=_positive, default=20.0, help="depth at which --calibration is exact"
    )
    one.add_argument("--student", type=Path, help="checkpoint (.safetensors); the shipped one if not given")
    one.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    one.set_defaults(run=fuse_pairs)

    one = commands.add_parser(
        "fuse-bag", help="fuse recordings (rosbag2, MCAP or sqlite3), every frame of them"
    )
    one.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="folder, or .mcap or .db3 file")
    one.add_argument(
        "--out", type=Path, required=True, help="folder of the fused bag; of several BAGs, one in it for each"
    )
    settings = one.add_mutually_exclusive_group()
    settings.add_argument(
        "--params-file",
        type=Path,
        help="the node's parameters; else its defaults, and camera_info and tf_static of the bag where it has them",
    )
    settings.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    one.add_argument("--camera", metavar="NAME", help="of the cameras in --params-file, where it has several")
    one.add_argument("--rgb-topic", help="found by type and name when not given")
    one.add_argument("--thermal-topic", help="found by type and name when not given")
    one.add_argument("--copy", action="store_true", help="copy all other topics too, byte by byte")
    one.add_argument("--storage", choices=("mcap", "sqlite3"), help="as BAG's when not given")
    one.add_argument(
        "--compression", choices=("none", "message", "file"), default="none", help="of the fused bag, by zstd"
    )
    one.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="students side by side; the result is the same"
    )
    one.add_argument(
        "--shard",
        type=_shard,
        default=f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}",
        metavar="INDEX/COUNT",
        help="of several BAGs only each COUNT-th, from INDEX on; torchrun sets it",
    )
    one.set_defaults(run=fuse_bags)

    one = commands.add_parser("make-bag", help="make a recording from two folders of images, or two videos")
    one.add_argument("--rgb", type=Path, required=True, help="folder of images, or a video")
    one.add_argument("--thermal", type=Path, required=True, help="folder with the same names, or a video")
    one.add_argument("--out", type=Path, required=True, help="folder of the recording")
    one.add_argument("--hz", type=_positive, help="rate; the video's, or 30, when not given")
    one.add_argument("--calibration", type=Path, help="YAML with both cameras and extrinsics")
    one.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")
    one.set_defaults(run=make_bag)

    one = commands.add_parser(
        "replay", help="play a recording onto the live graph, with /clock; space pauses"
    )
    one.add_argument("bag", type=Path, metavar="BAG", help="folder, or .mcap or .db3 file")
    one.add_argument("--rate", type=_positive, default=1.0, help="how many times faster than recorded")
    one.add_argument("--loop", action="store_true", help="start over at the end, until Ctrl-C")
    one.add_argument(
        "--clock-hz", type=_positive, default=40.0, help="how often /clock is told, in wall time"
    )
    one.add_argument(
        "--start-offset-s", type=_not_negative, default=0.0, help="seconds of the recording to leave out"
    )
    one.add_argument("--start-paused", action="store_true", help="wait for space or the service ~/resume")
    one.add_argument("--topics", nargs="+", metavar="TOPIC", help="play only these")
    one.add_argument(
        "--remap",
        action="append",
        default=[],
        metavar="/OLD:=/NEW",
        help="play a topic under another name; may be repeated",
    )
    one.add_argument(
        "--wait-s", type=_not_negative, default=3.0, help="how long to wait at most until somebody listens"
    )
    one.set_defaults(run=replay)

    one = commands.add_parser("report", help="one HTML page to judge a fused recording by")
    one.add_argument(
        "source",
        type=Path,
        metavar="BAG_OR_DIR",
        help="recording with fused/status, folder of such, or folder with rgb/, thermal/ and fused/",
    )
    one.add_argument("--out", type=Path, default=Path("out/report.html"), help="the page")
    one.set_defaults(run=report)

    one = commands.add_parser("calibrate", help="find out how the cameras sit, with a board or from scenes")
    one.add_argument("--rgb", type=Path, help="folder of RGB images")
    one.add_argument("--thermal", type=Path, help="folder of thermal images of the same names, 8 or 16 bit")
    one.add_argument("--bag", type=Path, help="rosbag2 recording (sqlite3 or MCAP) instead of the folders")
    one.add_argument("--rgb-topic", help="in the bag; found by type and name when not given")
    one.add_argument("--thermal-topic", help="in the bag; found by type and name when not given")
    one.add_argument("--board", type=_board, default=(9, 6), help="inner corners or circles, COLUMNSxROWS")
    one.add_argument("--square-m", type=_positive, help="distance between neighbours on the board, in metres")
    one.add_argument(
        "--pattern", choices=("checkerboard", "circles", "asymmetric_circles"), default="checkerboard"
    )
    one.add_argument(
        "--from-scenes", action="store_true", help="no board: any recorded pairs of one rig; a homography"
    )
    one.add_argument(
        "--calibration",
        type=Path,
        help="with --from-scenes: correct the rotation of this calibration instead",
    )
    one.add_argument(
        "--plane-depth-m",
        type=_positive,
        default=20.0,
        help="with --calibration: how far away the scenes are",
    )
    one.add_argument("--out", type=Path, default=Path("out/calibration"), help="folder of the results")
    one.set_defaults(run=calibrate)

    one = commands.add_parser("soak", help="play every fault, alone and in pairs, against the live node")
    one.add_argument(
        "--minutes", type=_positive, default=20.0, help="length; each fault alone takes 5 already"
    )
    one.add_argument("--seed", type=int, default=0, help="of the pairs and of what is random in a fault")
    one.add_argument("--out", type=Path, default=Path("out/soak"), help="folder for report.json")
    one.set_defaults(run=soak)

    one = commands.add_parser(
        "bench", help="what a frame costs here, stage by stage, against the machine's floor"
    )
    one.add_argument("--frames", type=int, default=200, help="of each size")
    one.add_argument("--threads", type=int, default=2, help="CPU threads")
    one.add_argument(
        "--pairs",
        type=int,
        nargs="*",
        default=[1, 2, 4, 8],
        help="numbers of camera pairs, fused as the node does",
    )
    one.add_argument("--student", type=Path, help="checkpoint (.safetensors); the shipped one if not given")
    one.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    one.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for bench.json, bench.png")
    one.set_defaults(run=bench)

    one = commands.add_parser("evaluate", help="judge students on pairs kept out of training")
    one.add_argument(
        "--data",
        type=Path,
        help="folder of SET/rgb/ID.* and SET/thermal/ID.*, clips in ../video; if not given $FUSIONPROXY_DATA/pairs",
    )
    one.add_argument(
        "--student",
        type=_named_path,
        action="append",
        metavar="[NAME=]PATH",
        help="checkpoint (.safetensors), may be repeated; the shipped one if not given",
    )
    one.add_argument(
        "--pictures",
        type=_named_path,
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="another method's pictures of the same pairs, FOLDER/SET/ID.png, to be ranked too; may be repeated",
    )
    one.add_argument(
        "--ensembles", type=Path, help="folder of the teacher's ensembles on pairs kept out of training"
    )
    one.add_argument("--teacher", type=Path, help="its checkpoint, to be timed in the same run")
    one.add_argument(
        "--out",
        type=Path,
        default=Path("out/evaluate"),
        help="folder for metrics.json, report.json, sheet.png",
    )
    one.set_defaults(run=evaluate)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry of the `fusionproxy` command; the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except FusionError as error:
        print(f"fusionproxy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
