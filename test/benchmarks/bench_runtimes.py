"""The student on a CPU: compiled code against five runtimes, on the same weights: time, and difference in grey levels.

    pip install onnx onnxscript onnxruntime openvino
    python test/benchmarks/bench_runtimes.py [--size 640x480] [--threads 2] [--student CHECKPOINT]

What is not installed is left out, saying so. Timed is what the node needs: luma and thermal in grey levels in, fused
luma in grey levels out. The runtimes are given the network with its local affine model, in float32.
"""

import argparse
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from fusionproxy_ros.distill.data import to_tensor
from fusionproxy_ros.fusion.cpu import NativeStudent
from fusionproxy_ros.fusion.network import Student, load_student, weights_of
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT

FRAMES = 150
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]  # on (H, W) uint8


def compiled(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    native = NativeStudent(weights_of(student))
    return lambda luma, thermal: native.fuse(luma, thermal, None, threads)


def by_torch(network: Callable) -> Fuse:
    def fuse(luma, thermal):
        return cv2.convertScaleAbs(network(to_tensor(luma), to_tensor(thermal))[0, 0].numpy(), alpha=255)

    return fuse


def eager(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    return by_torch(student)


def inductor(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    return by_torch(torch.compile(student, dynamic=False, options={"freezing": True}))


def aot_inductor(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    exported = torch.export.export(student, examples(size_px))
    return by_torch(torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(exported)))


def examples(size_px: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(2, 1, 1, *size_px[::-1]))


def as_onnx(student: Student, size_px: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    names = {"input_names": ["luma", "thermal"], "output_names": ["fused"]}
    torch.onnx.export(student.eval(), examples(size_px), dynamo=True, verbose=False, **names).save(file)
    return file.getvalue()


def by_numpy(network: Callable) -> Fuse:
    def fuse(luma, thermal):
        planes = (np.multiply(p[None, None], np.float32(1 / 255)) for p in (luma, thermal))
        return cv2.convertScaleAbs(network(*planes)[0, 0], alpha=255)

    return fuse


def onnx_runtime(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(as_onnx(student, size_px), options)
    return by_numpy(lambda luma, thermal: session.run(None, {"luma": luma, "thermal": thermal})[0])


def openvino(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = core.compile_model(core.read_model(as_onnx(student, size_px)), "CPU", settings)
    return by_numpy(lambda luma, thermal: model([luma, thermal])[0])


RUNTIMES = {
    "compiled (ours)": compiled,
    "torch, eager": eager,
    "torch.compile": inductor,
    "AOTInductor": aot_inductor,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="640x480", help="of the picture, multiples of 16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--student", type=Path, default=DEFAULT_STUDENT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=RUNTIMES, help="measure one, in this process")
    args = parser.parse_args()
    if args.only:
        return measure(args)
    print(f"{args.size}, {args.threads} threads, {args.student.name}")
    lines = {name: [] for name in RUNTIMES}
    for _ in range(args.rounds):
        # Each in a process of its own, since idle threads of one spin beside another's.
        for name in RUNTIMES:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", name], capture_output=True, text=True
            )
            lines[name].append(
                done.stdout.splitlines()[-1] if done.stdout else "left out: " + done.stderr[-80:]
            )
    for name, of_rounds in lines.items():
        for line in of_rounds:
            print(f"{name:20} {line}")


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    size_px = tuple(map(int, args.size.split("x")))
    rng = np.random.default_rng(0)
    planes = [cv2.blur(rng.integers(0, 256, size_px[::-1], np.uint8), (5, 5)) for _ in range(2)]
    student = load_student(args.student)
    start_s = time.perf_counter()
    try:
        fuse = RUNTIMES[args.only](student, size_px, args.threads)
        fused = fuse(*planes)
    except Exception as error:  # not installed, or it cannot take this network
        print(f"left out ({type(error).__name__}: {str(error).splitlines()[0]})")
        return
    ready_s, times_ms = time.perf_counter() - start_s, []
    for _ in range(FRAMES):
        start_s = time.perf_counter()
        fuse(*planes)
        times_ms.append(1e3 * (time.perf_counter() - start_s))
    p50_ms, p90_ms = np.percentile(times_ms, (50, 90))
    off = cv2.absdiff(fused, compiled(student, size_px, 1)(*planes)).max()
    print(f"{p50_ms:6.2f} ms (p90 {p90_ms:5.2f})  ready in {ready_s:5.1f} s  off by {off}")


if __name__ == "__main__":
    main()
