"""The real node over real DDS: frames lost, latency against the bare core, and a ledger of where the time goes.

    python test/benchmarks/bench_node.py [--seconds 300] [--size 640x480] [--hz 30]
    python test/benchmarks/bench_node.py --seconds 30 --two-machines [--best-effort]      # as root

Cameras, node and downstream are a process each. With --two-machines the cameras have a network namespace of their own,
behind a gigabit link, so that nothing of theirs goes through shared memory; Fast DDS obeys its environment variables.
Latency counts from the publish call of the later of a pair's two images to the downstream's callback.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from fusionproxy_ros.ros.process import GOMP_SPINCOUNT

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # before torch, as the node does

import numpy as np
from ament_index_python.packages import get_package_prefix

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.frames import MODES, Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.camera import Calibration
from fusionproxy_ros.trials.harness import (
    extrinsic_parameters,
    node_arguments,
    prepare_environment,
    stop_process,
)
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

FOOTAGE = 30  # pictures of each camera, rendered once and played in a loop
WARM_UP = 30  # frames that count as frames, but not for times
NETWORK = """ip netns add fusion_cameras; ip netns add fusion_node
ip link add cable netns fusion_cameras type veth peer name cable netns fusion_node
for side in cameras:1 node:2; do name=fusion_${side%:*}
ip -n $name addr add 10.77.0.${side#*:}/24 dev cable; ip -n $name link set lo up; ip -n $name link set cable up
ip -n $name route add 224.0.0.0/4 dev cable; mkdir -p /dev/shm/$name
tc -n $name qdisc add dev cable root tbf rate 1gbit burst 128k latency 100ms; done"""


def core_ms(rgb: list, thermal: list, calibration: Calibration, hz: float, frames: int = 300) -> np.ndarray:
    """Of Fuser.fuse alone in this process, at the cameras' pace."""
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings())
    register, times_ms, begin_s = registration.extrinsic(calibration, 20.0), [], time.monotonic()
    for n in range(WARM_UP + frames):
        time.sleep(max(0, begin_s + n / hz - time.monotonic()))
        i, stamp_ns = n % FOOTAGE, 1 + round(n / hz * 1e9)
        images = Frame(stamp_ns, "", rgb[i], "rgb8"), Frame(stamp_ns, "", thermal[i], "mono16")
        start_ns = time.monotonic_ns()
        fuser.fuse(Pair(*images, Mode.FUSED), register)
        times_ms.append((time.monotonic_ns() - start_ns) / 1e6)
    return np.array(times_ms[WARM_UP:])


def run(folder: Path, args: argparse.Namespace, calibration: Calibration) -> list[float]:
    """Cameras, node and downstream, until the cameras end; the node's resident memory in MB, once a second."""
    with ExitStack() as stack:
        if args.two_machines:
            for name in "fusion_cameras", "fusion_node":
                stack.callback(subprocess.run, ["ip", "netns", "del", name])
                stack.callback(shutil.rmtree, f"/dev/shm/{name}", ignore_errors=True)
            subprocess.run(["sh", "-ec", NETWORK], check=True)

        def start(where: str, *command) -> subprocess.Popen:
            own_memory = f'mount --bind /dev/shm/fusion_{where} /dev/shm && exec "$@"'  # as machines have
            enter = ["ip", "netns", "exec", f"fusion_{where}", "sh", "-c", own_memory, "sh"]
            enter = enter if args.two_machines else []
            process = subprocess.Popen([*enter, sys.executable, *map(str, command)])
            stack.callback(stop_process, process)
            return process

        launcher = Path(get_package_prefix("fusionproxy_ros")) / "lib" / "fusionproxy_ros" / "fusion_node"
        node = start("node", launcher, *node_arguments(extrinsic_parameters(calibration)))
        peers = Path(__file__).with_name("bench_peers.py")
        start("node", peers, "downstream", folder)
        pace = "--seconds", args.seconds, "--hz", args.hz, *(["--best-effort"] if args.best_effort else [])
        cameras, memory_mb = start("cameras", peers, "cameras", folder, *pace), []
        while cameras.poll() is None:
            status = Path(f"/proc/{node.pid}/status").read_text()
            memory_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
            time.sleep(1.0)
    return memory_mb


def ledger(sent: dict, images: list, statuses: list) -> dict[str, np.ndarray]:
    """Stage -> ms of each frame; those before the parentheses add up to the first."""
    told, rows = {stamp: (thermal, times) for stamp, thermal, _, times in statuses}, []
    for stamp, out_ns, got_ns in images[WARM_UP:]:
        if stamp not in told:
            continue
        thermal, times = told[stamp]
        later_ns = max(sent["rgb", stamp], sent.get(("thermal", thermal), 0))
        stages = {name: times[name] for name in ("queue", "register", "normalise", "student")}
        before_ms = times["total"] - times["publish"]  # from arrival to the publish call
        row = {"all": (got_ns - later_ns) / 1e6, "camera -> node": (out_ns - later_ns) / 1e6 - before_ms}
        row |= stages | {"rest of node": before_ms - sum(stages.values())}
        row |= {"node -> downstream": (got_ns - out_ns) / 1e6}
        rows.append(row | {f"({name})": times[name] for name in ("sync_wait", "publish", "total")})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--two-machines", action="store_true")
    parser.add_argument("--best-effort", action="store_true", help="the cameras' reliability")
    args = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
    if not args.two_machines:
        prepare_environment()
    keep_freed_memory()
    width_px, height_px = map(int, args.size.split("x"))
    calibration = default_calibration((width_px, height_px), (width_px // 2, height_px // 2))
    scene = NightRoad(calibration)
    rgb, thermal = ([see(n / args.hz) for n in range(FOOTAGE)] for see in (scene.rgb, scene.thermal))
    core = np.percentile(core_ms(rgb, thermal, calibration, args.hz), (50, 99))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "rgb.npy", rgb)
        np.save(folder / "thermal.npy", thermal)
        memory_mb = run(folder, args, calibration)
        sent = {(camera, stamp): ns for camera, stamp, ns in json.loads((folder / "sent.json").read_text())}
        images, statuses = json.loads((folder / "got.json").read_text())
    answers = Counter(stamp for stamp, *_ in images)
    modes = Counter(MODES[mode] for _, _, mode, _ in statuses)
    frames = [stamp for camera, stamp in sent if camera == "rgb"]
    once = sum(answers[stamp] == 1 for stamp in frames)
    print(f"{len(frames)} frames sent, {once} answered once, {len(frames) - len(statuses)} without status")
    print(f"{modes['DROPPED']} dropped; {dict(modes)}")
    stages = ledger(sent, images, statuses)
    print(f"{'ms':<18}     mean      p50      p99    worst")
    for name, ms in stages.items():
        numbers = ms.mean(), *np.percentile(ms, (50, 99)), ms.max()
        print(f"{name:<18}" + " ".join(f"{number:8.2f}" for number in numbers))
    p50, p99 = np.percentile(stages["all"], (50, 99)) - core
    print(f"core before that: p50 {core[0]:.2f}, p99 {core[1]:.2f} ms; all - core: {p50:.2f}, {p99:.2f} ms")
    first_mb, last_mb = memory_mb[min(15, len(memory_mb) - 1)], memory_mb[-1]
    print(f"node's resident memory: {first_mb:.0f} MB at 15 s, {last_mb:.0f} MB at the end")


if __name__ == "__main__":
    main()
