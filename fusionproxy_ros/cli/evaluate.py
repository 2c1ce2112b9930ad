"""Judge students on pairs kept out of training."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy evaluate`."""
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of SET/rgb/ID.* and SET/thermal/ID.*, clips in ../video; if not given $FUSIONPROXY_DATA/pairs",
    )
    parser.add_argument(
        "--student",
        type=_named_path,
        action="append",
        metavar="[NAME=]PATH",
        help="checkpoint (.safetensors), may be repeated; the shipped one if not given",
    )
    parser.add_argument(
        "--pictures",
        type=_named_path,
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="another method's pictures of the same pairs, FOLDER/SET/ID.png, to be ranked too; may be repeated",
    )
    parser.add_argument(
        "--ensembles", type=Path, help="folder of the teacher's ensembles on pairs kept out of training"
    )
    parser.add_argument("--teacher", type=Path, help="its checkpoint, to be timed in the same run")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/evaluate"),
        help="folder for metrics.json, report.json, sheet.png",
    )


def _named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


def run(args: Namespace) -> int:
    """Judge students against classical fusion."""
    from fusionproxy_ros.distill import evaluate

    return evaluate.run(args)
