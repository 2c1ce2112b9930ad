"""Run the live node on a synthetic night road or on your footage."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionproxy_ros.core.arguments import positive


def add_arguments(parser: ArgumentParser) -> None:
    """Of `fusionproxy demo`."""
    parser.add_argument(
        "--source",
        default="scene",
        help="scene, a video pair NAME_rgb.* NAME_thermal.*, or a folder with rgb/ and thermal/",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for report.json, sheet.png, fused.mp4"
    )
    parser.add_argument("--seconds", type=positive, default=20.0, help="length of the run")
    parser.add_argument(
        "--thermal-hz",
        type=positive,
        default=30.0,
        help="rate of the synthetic thermal camera (9 for export-grade cores)",
    )


def run(args: Namespace) -> int:
    """Run the live demo; 1 when a promise was broken."""
    from fusionproxy_ros.trials import demo

    report = demo.run_demo(args.source, args.out, args.seconds, args.thermal_hz)
    print("\n" + "\n".join(f"  {name:<22} {value}" for name, value in _rows(report).items()))
    print(f"\n  {args.out}/sheet.png  {args.out}/fused.mp4  {args.out}/report.json")
    kept = (
        report["answered_once"] == report["rgb_frames"]
        and not report["header_mismatches"] + report["out_of_order"]
    )
    return 0 if kept else 1


def _rows(report: dict) -> dict[str, object]:
    """What the report says, by the names that the terminal shows."""

    def milliseconds(key: str) -> str:
        return f"p50 {report[key]['p50']} ms, p99 {report[key]['p99']} ms"

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
    return rows
