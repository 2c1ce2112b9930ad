"""Play a recording onto the live graph, with /clock; space pauses."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from fusionproxy_ros.core.arguments import positive


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy replay`."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="folder, or .mcap or .db3 file")
    parser.add_argument("--rate", type=positive, default=1.0, help="how many times faster than recorded")
    parser.add_argument("--loop", action="store_true", help="start over at the end, until Ctrl-C")
    parser.add_argument(
        "--clock-hz", type=positive, default=40.0, help="how often /clock is told, in wall time"
    )
    parser.add_argument(
        "--start-offset-s", type=_not_negative, default=0.0, help="seconds of the recording to leave out"
    )
    parser.add_argument("--start-paused", action="store_true", help="wait for space or the service ~/resume")
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="play only these")
    parser.add_argument(
        "--remap",
        action="append",
        default=[],
        metavar="/OLD:=/NEW",
        help="play a topic under another name; may be repeated",
    )
    parser.add_argument(
        "--wait-s", type=_not_negative, default=3.0, help="how long to wait at most until somebody listens"
    )


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def run(args: Namespace) -> int:
    """Play a recording onto the live graph; 1 when it was damaged."""
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
