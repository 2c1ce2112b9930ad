"""The student on a CPU: compiled code against five runtimes, in turns, on the same weights: time, ratio, difference.

    pip install onnx onnxscript onnxruntime openvino
    python test/bench_runtimes.py [--size 640x480] [--threads 2] [--student CHECKPOINT]

What is not installed is left out, saying so. Timed is what the node needs: luma and thermal in grey levels in, fused
luma in grey levels out. The runtimes are given the network with its local affine model, in float32.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from fusionproxy_ros.distill.data import to_tensor
from fusionproxy_ros.native import NativeStudent
from fusionproxy_ros.student import DEFAULT_STUDENT, Student, load_student

ROUNDS, REPEATS = 15, 10
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]  # on (H, W) uint8


def compiled(student: Student, size_px: tuple[int, int], threads: int) -> Fuse:
    native = NativeStudent(student)
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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size_px = tuple(map(int, args.size.split("x")))
    rng = np.random.default_rng(0)
    planes = [cv2.blur(rng.integers(0, 256, size_px[::-1], np.uint8), (5, 5)) for _ in range(2)]
    student = load_student(args.student)
    runs, starts_s = {}, {}
    for name, make in RUNTIMES.items():
        start_s = time.perf_counter()
        try:
            runs[name] = make(student, size_px, args.threads)
            runs[name](*planes)
        except Exception as error:  # not installed, or it cannot take this network
            runs.pop(name, None)
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0]})")
        starts_s[name] = time.perf_counter() - start_s
    times_s = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(REPEATS):
                start_s = time.perf_counter()
                run(*planes)
                times_s[name].append(time.perf_counter() - start_s)
    ours_s = statistics.median(next(iter(times_s.values())))
    right = next(iter(runs.values()))(*planes)
    print(f"{args.size}, {args.threads} threads, widths {student.widths}")
    for name, run in runs.items():
        median_s, p90_s = np.percentile(times_s[name], (50, 90))
        print(
            f"{name:20} {1e3 * median_s:6.2f} ms (p90 {1e3 * p90_s:5.2f})  {ours_s / median_s:5.2f} x ours  "
            f"ready in {starts_s[name]:5.1f} s  off by {cv2.absdiff(run(*planes), right).max()}"
        )


if __name__ == "__main__":
    main()
