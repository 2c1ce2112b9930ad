"""One HTML page to judge a fused recording by."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy report`."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="BAG_OR_DIR",
        help="recording with fused/status, folder of such, or folder with rgb/, thermal/ and fused/",
    )
    parser.add_argument("--out", type=Path, default=Path("out/report.html"), help="the page")


def run(args: Namespace) -> int:
    """Write the page by which a person judges a fused recording."""
    from fusionproxy_ros.report.build import report

    summary = report(args.source, args.out)
    print(f"{summary.headline}\n\n  {summary.page}")
    return 0
