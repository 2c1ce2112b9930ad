"""What a frame costs here, stage by stage, against the machine's floor."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy bench`."""
    parser.add_argument("--frames", type=int, default=200, help="of each size")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--pairs",
        type=int,
        nargs="*",
        default=[1, 2, 4, 8],
        help="numbers of camera pairs, fused as the node does",
    )
    parser.add_argument(
        "--student", type=Path, help="checkpoint (.safetensors); the shipped one if not given"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), help="folder for bench.json, bench.png"
    )


def run(args: Namespace) -> int:
    """Measure what a frame costs on this machine."""
    from fusionproxy_ros.trials import bench

    bench.run_bench(args.out, args.student, args.device, args.threads, args.frames, args.pairs)
    print(f"\n  {args.out}/bench.json  {args.out}/bench.png")
    return 0
