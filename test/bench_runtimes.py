"""The student's network in several runtimes, in turns, on the same weights: time, ratio, difference.

    pip install onnx onnxscript onnxruntime openvino
    python test/bench_runtimes.py [--size 640x480] [--threads 2] [--student CHECKPOINT]

What is not installed is left out, saying so. Timed is `Student.coefficients`: all of the network; what follows (twice
the size, local affine model) is the same for all. Both planes go in and the coefficients come out as numpy arrays.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fusionproxy_ros.student import DEFAULT_STUDENT, Student, load_student

ROUNDS, REPEATS = 15, 10


class Coefficients(nn.Module):
    """The network alone, as exporters want it."""

    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, luma: Tensor, thermal: Tensor) -> Tensor:
        return self.student.coefficients(luma, thermal)


def eager(student: Student, planes: list[np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    tensors = [torch.from_numpy(plane) for plane in planes]
    return lambda: student.coefficients(*tensors).numpy()


def inductor(student: Student, planes: list[np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    tensors = [torch.from_numpy(plane) for plane in planes]
    compiled = torch.compile(Coefficients(student), dynamic=False, options={"freezing": True})
    return lambda: compiled(*tensors).numpy()


def aot_inductor(student: Student, planes: list[np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    tensors = tuple(torch.from_numpy(plane) for plane in planes)
    package = torch._inductor.aoti_compile_and_package(torch.export.export(Coefficients(student), tensors))
    loaded = torch._inductor.aoti_load_package(package)
    return lambda: loaded(*tensors).numpy()


def exported(student: Student, planes: list[np.ndarray]) -> bytes:
    """As ONNX."""
    tensors, file = tuple(torch.from_numpy(plane) for plane in planes), io.BytesIO()
    names = {"input_names": ["luma", "thermal"], "output_names": ["coefficients"]}
    torch.onnx.export(Coefficients(student).eval(), tensors, dynamo=True, verbose=False, **names).save(file)
    return file.getvalue()


def onnx_runtime(student: Student, planes: list[np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported(student, planes), options)
    inputs = dict(zip(("luma", "thermal"), planes, strict=True))
    return lambda: session.run(None, inputs)[0]


def openvino(student: Student, planes: list[np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = core.compile_model(core.read_model(exported(student, planes)), "CPU", settings)
    return lambda: model(planes)[0]


RUNTIMES = {
    "torch, eager (ours)": eager,
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
    width, height = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    planes = [rng.random((1, 1, height, width), np.float32) for _ in range(2)]
    student = load_student(args.student)
    runs, starts_s = {}, {}
    for name, make in RUNTIMES.items():
        start_s = time.perf_counter()
        try:
            runs[name] = make(student, planes, args.threads)
            runs[name]()
        except Exception as error:  # not installed, or it cannot take this network
            runs.pop(name, None)
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0]})")
        starts_s[name] = time.perf_counter() - start_s
    times_s = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(REPEATS):
                start_s = time.perf_counter()
                run()
                times_s[name].append(time.perf_counter() - start_s)
    ours_s = statistics.median(next(iter(times_s.values())))
    right = next(iter(runs.values()))()
    print(f"{args.size}, {args.threads} threads, widths {student.widths}")
    for name, run in runs.items():
        median_s, p90_s = np.percentile(times_s[name], (50, 90))
        print(
            f"{name:20} {1e3 * median_s:6.2f} ms (p90 {1e3 * p90_s:5.2f})  {ours_s / median_s:5.2f} x ours  "
            f"ready in {starts_s[name]:5.1f} s  off by {np.abs(run() - right).max():.1e}"
        )


if __name__ == "__main__":
    main()
