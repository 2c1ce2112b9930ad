"""Play every fault, alone and in pairs, against the live node."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionproxy_ros.core.arguments import positive


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy soak`."""
    parser.add_argument(
        "--minutes", type=positive, default=20.0, help="length; each fault alone takes 5 already"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of what is random in a fault")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder for report.json")


def run(args: Namespace) -> int:
    """Play every fault against the live node; 1 when a promise was broken."""
    from fusionproxy_ros.trials import soak

    report = soak.run_soak(args.minutes, args.seed, args.out)
    soak.print_soak_report(report)
    print(f"\n  {args.out}/report.json")
    return 1 if report["broken"] else 0
