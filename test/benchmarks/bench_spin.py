"""How long OpenMP's idle threads had better spin: a frame's core at 30 Hz, alone and beside two busy processes.

    python test/benchmarks/bench_spin.py [--rounds 2]

Each setting has a process of its own, in turns. scripts/fusion_node sets the one that came out best.
"""

import argparse
import os
import subprocess
import sys
import time

SETTINGS = (
    {},
    {"OMP_WAIT_POLICY": "PASSIVE"},
    *({"GOMP_SPINCOUNT": str(count)} for count in (2_000, 10_000, 20_000)),
)
HZ, FRAMES = 30, 180


def measure() -> None:
    """In a process of its own, since OpenMP reads its settings once."""
    import numpy as np
    import torch  # noqa: F401  # which reads the setting now: bench_node has one of its own
    from bench_node import core_ms

    from fusionproxy_ros.core.allocator import keep_freed_memory
    from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

    keep_freed_memory()
    calibration = default_calibration()
    scene = NightRoad(calibration)
    rgb, thermal = ([see(n / HZ) for n in range(HZ)] for see in (scene.rgb, scene.thermal))
    start_s, used_s = time.monotonic(), time.process_time()
    times_ms = core_ms(rgb, thermal, calibration, HZ, FRAMES)
    share = (time.process_time() - used_s) / (time.monotonic() - start_s)
    p50_ms, p99_ms = np.percentile(times_ms, (50, 99))
    print(f"p50 {p50_ms:6.2f} ms, p99 {p99_ms:6.2f} ms, {share:4.0%} of one core", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    clean = {name: value for name, value in os.environ.items() if not any(name in s for s in SETTINGS)}
    for busy in 0, 2:
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for setting in SETTINGS * rounds:
                name = ", ".join(map("=".join, setting.items())) or "OpenMP's default"
                print(f"beside {busy} busy processes, {name:24} ", end="", flush=True)
                command = "import bench_spin; bench_spin.measure()"
                subprocess.run(
                    [sys.executable, "-c", command],
                    env=clean | setting,
                    cwd=os.path.dirname(os.path.abspath(__file__)),
                    check=True,
                )
        finally:
            for hog in hogs:
                hog.kill()


if __name__ == "__main__":
    main()
