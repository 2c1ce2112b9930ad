"""From registered thermal to the fused picture without leaving a GPU: one upload, one CUDA graph, one download.

All arithmetic is plain torch and runs on any device; only pinned memory and the graph are CUDA's.
"""

import copy
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch

from fusionproxy_ros.colour import KEPT
from fusionproxy_ros.frames import Frame
from fusionproxy_ros.student import Student

MAX_SIZES = 2  # sizes seldom change in mid-stream
WARM_UPS = 3  # before a capture, during which libraries may not initialise themselves
# cv2's fixed-point BT.601. Their products with 8 bits, and the sums of those, are exact in float32.
LUMA_OF_RGB = torch.tensor([9798, 19235, 3735]) / 2**15


class DeviceFuser:
    """Fuses pictures on one device. Any thread may call it; one at a time is served.

    student: copied; the copy moves to `device`. dtype: the network computes in it, all else in float32.
    warn: told when the GPU has to do without a graph, which is slower and gives the same pictures.
    """

    def __init__(
        self,
        student: Student,
        device: torch.device | str,
        dtype: torch.dtype = torch.float16,
        warn: Callable[[str], None] = warnings.warn,
    ):
        # A copy, for what a broken CUDA context holds is lost, and the student must go on elsewhere.
        device = torch.device(device)
        student = copy.deepcopy(student).to(device, dtype)
        self._place = lru_cache(maxsize=MAX_SIZES)(partial(_Place, student, device, warn))
        self._lock = threading.Lock()

    @torch.inference_mode()
    def fuse(self, rgb: Frame, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """(H, W, 3) uint8, the caller's own, in the channel order of `rgb`.

        thermal: (H, W) uint8 on the RGB grid. weight: (H, W) float32 in 0..1, None means 1; kept on the
        device until another array is given, so it must not change.
        """
        with self._lock:
            return self._place(thermal.shape).fuse(rgb, thermal, weight)


class _Place:
    """Where frames of one size lie on the device, and what is done to them there.

    Host and device hold RGB and thermal end to end in one buffer each, so that one copy moves both.
    """

    def __init__(
        self, student: Student, device: torch.device, warn: Callable[[str], None], shape: tuple[int, int]
    ):
        self._student = student
        pixels, pinned = shape[0] * shape[1], device.type == "cuda"
        self._sent = torch.zeros(4 * pixels, dtype=torch.uint8, pin_memory=pinned)
        self._answer = torch.zeros(*shape, 3, dtype=torch.uint8, pin_memory=pinned)
        self._received, self._fused = (host.to(device, copy=True) for host in (self._sent, self._answer))
        self._rgb = self._received[: 3 * pixels].view(*shape, 3)
        self._thermal = self._received[3 * pixels :].view(1, 1, *shape)
        self._encoding, self._luma_of = "rgb8", LUMA_OF_RGB.to(device, copy=True)
        self._kept = torch.from_numpy(KEPT.astype(np.float32)).ravel().to(device)
        self._known_weight, self._weight = None, torch.ones(1, 1, *shape, device=device)
        self._graph = _graph_of(self._run, warn) if device.type == "cuda" else None

    def fuse(self, rgb: Frame, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        if rgb.encoding != self._encoding:
            self._luma_of.copy_(LUMA_OF_RGB if rgb.encoding == "rgb8" else LUMA_OF_RGB.flip(0))
            self._encoding = rgb.encoding
        if weight is not self._known_weight:  # it changes with the calibration, or with depth
            self._weight.copy_(torch.ones(()) if weight is None else torch.from_numpy(weight.copy()))
            self._known_weight = weight
        sent = self._sent.numpy()
        sent[: rgb.pixels.size].reshape(rgb.pixels.shape)[:] = rgb.pixels
        sent[rgb.pixels.size :].reshape(thermal.shape)[:] = thermal
        self._received.copy_(self._sent, non_blocking=True)
        if self._graph:
            self._graph.replay()
        else:
            self._run()
        self._answer.copy_(self._fused)  # waits for the device
        return self._answer.numpy().copy()

    def _run(self) -> None:
        """Fills `_fused`; rounds where `luma_of`, `add_luma` and the student on the CPU do."""
        luma = (self._rgb * self._luma_of).sum(-1).add_(0.5).floor_()
        fused_luma = self._student(luma[None, None] / 255, self._thermal / 255, self._weight)[0, 0]
        fused_luma = (fused_luma * 255).round_()
        gain = (fused_luma - luma).clamp_(min=0)
        place = (256 * self._rgb.amax(-1).float() + gain).long()
        kept = self._kept[place.clamp_(0, KEPT.size - 1)]  # NaN has a place too
        colour = ((self._rgb - luma[..., None]) * kept[..., None] / 128 + 0.5).floor_()
        self._fused.copy_((fused_luma[..., None] + colour).clamp_(0, 255))


def _graph_of(work: Callable[[], None], warn: Callable[[str], None]) -> "torch.cuda.CUDAGraph | None":
    """`work` captured; None, and a warning, where that fails for another reason than want of memory."""
    try:
        return _capture(work)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        warn(f"no CUDA graph, each kernel is launched by itself, which is slower: {error}")
        return None


def _capture(work: Callable[[], None]) -> "torch.cuda.CUDAGraph":
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU
        work()
    return graph
