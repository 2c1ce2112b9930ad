"""How long the cameras' images are missed when the node's process is killed and started again, 2.5 s later.

    python test/benchmarks/bench_restart.py [--rounds 20]

The node, two cameras at 640x480 and 30 Hz and a downstream, each a process, over Fast DDS and loopback. For each round:
from the start of the new process to its first answer, and how many frames it answered before the first fused one.
"""

import argparse
import json
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from fusionproxy_ros.trials import soak
from fusionproxy_ros.trials.faults import KILL_FAULTS
from fusionproxy_ros.trials.harness import prepare_environment
from fusionproxy_ros.trials.judge import Limits
from fusionproxy_ros.trials.soak_plan import slots_of

TAIL_S = 9.0  # for the new process; what has not answered by then is silent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    prepare_environment()
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
    slots = slots_of([(replace(KILL_FAULTS[0], tail_s=TAIL_S),)] * rounds)
    with tempfile.TemporaryDirectory() as folder:
        rows, _ = soak.run_slots(slots, (640, 480), {}, Path(folder), Limits())
        lines = map(json.loads, (Path(folder) / "downstream.log").read_text().splitlines())
        answers_ns = [ns for output, ns, *_ in lines if output == "status"]
    answered = []  # seconds from the start to the first answer
    for slot, row in zip(slots, rows, strict=True):
        firsts_s = [(ns - slot.end_ns) / 1e9 for ns in answers_ns if slot.end_ns < ns < slot.stop_ns]
        if not firsts_s:
            print("silent" if row["frames"] else "the RGB camera hangs")
            continue
        answered.append(min(firsts_s))
        unfused = row["recovery_frames"]
        print(
            f"{answered[-1]:5.2f} s to the first answer, {unfused} frames before it was fused {row['reasons'] or ''}"
        )
    frames = [row["recovery_frames"] for row in rows if row["recovery_frames"] is not None]
    print(
        f"{rounds - len(answered)} of {rounds} silent; first answer after {median(answered):.2f} s, at most "
        f"{max(answered):.2f}; {sum(n <= 3 for n in frames)} of {rounds} within 3 frames, at most {max(frames)}"
    )


if __name__ == "__main__":
    main()
