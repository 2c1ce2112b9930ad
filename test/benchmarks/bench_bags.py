"""fuse-bag on a long recording: speed against real time, memory, and a run that is killed and gone on with.

python test/benchmarks/bench_bags.py [--gigabytes 2] [--folder FOLDER]     prints a table; takes three times the fusing
"""

import argparse
import hashlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fusionproxy_ros.bags.make_bag import write_pairs
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

HZ = 30.0
SCENE_FRAMES = 90  # rendered once and repeated
PAIR_BYTES = 640 * 480 * 3 + 320 * 256 * 2


def generate(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """A recording of the night road with camera_info and tf_static; its path and frames."""
    calibration = default_calibration()
    scene = NightRoad(calibration)
    pairs = [(scene.rgb(n / HZ)[..., ::-1], scene.thermal(n / HZ)) for n in range(SCENE_FRAMES)]
    count = int(gigabytes * 1e9 / PAIR_BYTES)
    write_pairs(itertools.islice(itertools.cycle(pairs), count), folder / "drive", HZ, calibration)
    return folder / "drive", count


def fuse(bag: Path, out: Path, *options: str, kill_at: str = "") -> tuple[float, float]:
    """Seconds and largest resident memory in MB of one `fusionproxy fuse-bag`; killed when part `kill_at` is there."""
    command = [sys.executable, "-m", "fusionproxy_ros.cli", "fuse-bag", bag, "--out", out, *options]
    start_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while kill_at and not (out.with_name(f"{out.name}.unfinished") / kill_at).exists():
        time.sleep(0.05)
    if kill_at:
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (-signal.SIGKILL if kill_at else 0), process.returncode
    return time.monotonic() - start_s, usage.ru_maxrss / 1e3


def digest(folder: Path) -> str:
    result = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            result.update(hashlib.file_digest(file, "sha256").digest())
    return result.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument(
        "--folder", type=Path, help="with room for four times that; a temporary one if not given"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        bag, frames = generate(folder, args.gigabytes)
        size = sum(path.stat().st_size for path in bag.iterdir())
        print(
            f"recording: {size / 1e9:.2f} GB, {frames / HZ:.0f} s, {frames} frames 640x480, 16-bit thermal 320x256"
        )

        def show(what: str, seconds: float, peak_mb: float) -> None:
            rate = frames / seconds
            print(
                f"{what:<34} {seconds:7.1f} s {rate:7.1f} frames/s {rate / HZ:6.2f} x real time {peak_mb:7.0f} MB"
            )

        show("two students, start to end", *fuse(bag, folder / "whole" / "out"))
        show("one student", *fuse(bag, folder / "one" / "out", "--workers", "1"))
        seconds, _ = fuse(bag, folder / "killed" / "out", kill_at="part_0")
        more, peak_mb = fuse(bag, folder / "killed" / "out")
        show("killed after its first part, resumed", seconds + more, peak_mb)
        digests = {digest(folder / name / "out") for name in ("whole", "one", "killed")}
        print(f"the three results are {'the same, byte by byte' if len(digests) == 1 else 'DIFFERENT'}")
        shutil.rmtree(folder / "one")
        shutil.rmtree(folder / "killed")

        shutil.copytree(bag, folder / "drive2")
        start_s = time.monotonic()
        command = [sys.executable, "-m", "fusionproxy_ros.cli", "fuse-bag", bag, folder / "drive2"]
        command += ["--out", folder / "fleet", "--workers", "1", "--shard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        shards = [subprocess.Popen([*command, f"{n}/2"], **quiet) for n in range(2)]
        assert [shard.wait() for shard in shards] == [0, 0]
        rate = 2 * frames / (time.monotonic() - start_s)
        print(
            f"two recordings, two processes with --shard: {rate:.1f} frames/s together, {rate / HZ:.2f} x real time"
        )
        print(f"(this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB)")


if __name__ == "__main__":
    main()
