"""From thermal counts to the fused picture without leaving a GPU: one upload, one CUDA graph, one download.

All arithmetic is plain torch and runs on any device; only pinned memory and the graph are CUDA's.
"""

import copy
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionproxy_ros.core.frames import Frame
from fusionproxy_ros.fusion.colour import DARK, LIT, RISE
from fusionproxy_ros.fusion.network import Student
from fusionproxy_ros.geometry.registration import Grid, Registered

MAX_PLACES = 2  # sizes seldom change in mid-stream
# torch's dtype of the same bits
SIGNED = {"uint8": torch.uint8, "uint16": torch.int16, "float32": torch.float32}
STEPS = 32  # to a pixel, of OpenCV's fixed-point maps
CAPTURING = threading.Lock()  # torch has one stream to capture in
WARM_UPS = 3  # before a capture, during which libraries may not initialise themselves
# cv2's fixed-point BT.601. Their products with 8 bits, and the sums of those, are exact in float32.
LUMA_OF_RGB = torch.tensor([9798, 19235, 3735]) / 2**15


class DeviceFuser:
    """Fuses pictures on one device, a GPU's in a stream of its own, beside those of other cameras. Any thread may call
    it; one at a time is served.

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
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with torch.cuda.stream(self._stream):
            student = copy.deepcopy(student).to(device, dtype)
        self._place = lru_cache(maxsize=MAX_PLACES)(partial(_Place, student, device, warn))
        self._lock = threading.Lock()

    @torch.inference_mode()
    def fuse(
        self, rgb: Frame, registered: Registered, thermal_range: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The fused picture, (H, W, 3) uint8 in the channel order of `rgb`, and thermal in grey levels on its grid,
        (H, W) uint8; both the caller's own.

        registered: its grid and its weight are kept on the device until others are given, so they must not change.
        thermal_range: (low, high), as of Normaliser.follow.
        """
        source = registered.source
        with self._lock, torch.cuda.stream(self._stream):
            place = self._place(rgb.pixels.shape[:2], source.shape, source.dtype, registered.grid is None)
            return place.fuse(rgb, registered, thermal_range)


class _Place:
    """Where frames of one size lie on the device, and what is done to them there.

    Host and device hold all that is sent end to end in one buffer each, so that one copy moves it, and likewise all
    that comes back. shape: of RGB, (H, W). thermal_shape, dtype: of the thermal image. aligned: it is on RGB's grid.
    """

    def __init__(
        self,
        student: Student,
        device: torch.device,
        warn: Callable[[str], None],
        shape: tuple[int, int],
        thermal_shape: tuple[int, int],
        dtype: np.dtype,
        aligned: bool,
    ):
        self._student = student
        pixels, pinned = shape[0] * shape[1], device.type == "cuda"
        thermal_size = thermal_shape[0] * thermal_shape[1]
        # The range and its scale, thermal, RGB; each at a multiple of four bytes.
        bytes_of = 12, -(-thermal_size * dtype.itemsize // 4) * 4, 3 * pixels

        def parts(buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            thermal_range, thermal, rgb = buffer.split(bytes_of)
            thermal = thermal.view(SIGNED[dtype.name])[:thermal_size].view(thermal_shape)
            return thermal_range.view(torch.float32), thermal, rgb.view(*shape, 3)

        self._sent = torch.zeros(sum(bytes_of), dtype=torch.uint8, pin_memory=pinned)
        self._answer = torch.zeros(4 * pixels, dtype=torch.uint8, pin_memory=pinned)
        self._received, self._made = (host.to(device, copy=True) for host in (self._sent, self._answer))
        self._to_range, to_thermal, self._to_rgb = (part.numpy() for part in parts(self._sent))
        self._to_thermal = to_thermal.view(dtype)
        self._range, self._counts, self._rgb = parts(self._received)
        fused, grey = self._made.split([3 * pixels, pixels])
        self._fused, self._grey = fused.view(*shape, 3), grey.view(shape)
        self._encoding, self._luma_of = "rgb8", LUMA_OF_RGB.to(device, copy=True)
        self._known_weight: np.ndarray | None = None
        self._weight = torch.ones(1, 1, *shape, device=device)
        self._known_grid: Grid | None = None
        # The four thermal pixels around each RGB pixel, and their shares; none where thermal is on RGB's grid.
        self._taps: tuple[Tensor, Tensor] | None = None
        if not aligned:
            indices = torch.zeros(4 * pixels, dtype=torch.int32, device=device)
            self._taps = indices, torch.zeros(4, *shape, device=device)
        self._graph = _graph_of(self._run, warn) if device.type == "cuda" else None

    def fuse(
        self, rgb: Frame, registered: Registered, thermal_range: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        if rgb.encoding != self._encoding:
            self._luma_of.copy_(LUMA_OF_RGB if rgb.encoding == "rgb8" else LUMA_OF_RGB.flip(0))
            self._encoding = rgb.encoding
        # Both change with the calibration, or with depth.
        weight, grid = registered.weight, registered.grid
        if weight is not self._known_weight:
            self._weight.copy_(torch.ones(()) if weight is None else torch.from_numpy(weight.copy()))
            self._known_weight = weight
        if grid is not None and self._taps and grid is not self._known_grid:
            for known, new in zip(self._taps, _taps_of(grid, registered.source.shape), strict=True):
                known.copy_(torch.from_numpy(new))
            self._known_grid = grid
        low, high = thermal_range
        self._to_range[:] = low, high, 255 / (high - low) if high > low else 0
        self._to_thermal[:] = registered.source
        self._to_rgb[:] = rgb.pixels
        self._received.copy_(self._sent, non_blocking=True)
        if self._graph:
            self._graph.replay()
        else:
            self._run()
        self._answer.copy_(self._made)  # waits for the device
        fused, grey = np.split(self._answer.numpy().copy(), [self._fused.numel()])
        return fused.reshape(self._fused.shape), grey.reshape(self._grey.shape)

    def _registered(self) -> Tensor:
        """Registered.pixels, (H, W) float32: what cv2.remap makes, to the last bit of whole counts."""
        counts = self._counts.float()
        if self._counts.dtype == torch.int16:
            counts = counts.remainder_(2**16)  # of uint16, which torch hardly knows
        if self._taps is None:
            return counts
        indices, shares = self._taps
        taps = F.pad(counts, (0, 1, 0, 1)).view(-1).index_select(0, indices).view_as(shares)
        summed = taps[3] * shares[3]
        # As cv2 does where multiplying and adding are one instruction: rounded once, after the sum.
        for tap in (2, 1, 0):
            summed = (taps[tap].double() * shares[tap] + summed).float()
        if self._counts.dtype == torch.int16:
            return summed.round_()
        return summed.add_(0.5).floor_() if self._counts.dtype == torch.uint8 else summed

    def _run(self) -> None:
        """Fills `_fused` and `_grey`: Registered.pixels, to_uint8, luma_of, the student, add_luma, as on the CPU."""
        low, high, scale = self._range
        grey = (self._registered().clamp(low, high) - low) * scale
        grey = grey.nan_to_num_(0).round_()
        self._grey.copy_(grey)
        luma = (self._rgb * self._luma_of).sum(-1).add_(0.5).floor_()
        fused = self._student(luma[None, None] / 255, grey[None, None] / 255, self._weight)[0, 0] * 255
        dark = (LIT - self._rgb.amax(-1).float()).clamp_(0, LIT - DARK)
        kept = 1 - dark * (fused - luma).clamp_(0, RISE) * (1 / ((LIT - DARK) * RISE))
        colour = fused[..., None] + kept[..., None] * (self._rgb - luma[..., None])
        self._fused.copy_(colour.clamp_(0, 255).add_(0.5))


def _taps_of(grid: Grid, thermal_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """For each RGB pixel the four thermal pixels around it and their shares: (4 H W) int32, (4, H, W) float32.

    A tap is the place in a thermal image with one more row and column.
    """
    width = thermal_shape[1] + 1
    first = grid.map_xy[..., 1] * np.int32(width) + grid.map_xy[..., 0]
    down, right = (part.astype(np.float32) / STEPS for part in np.divmod(grid.map_fraction, STEPS))
    shares = (1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right
    return np.concatenate([(first + tap).ravel() for tap in (0, 1, width, width + 1)]), np.stack(shares)


def _graph_of(work: Callable[[], None], warn: Callable[[str], None]) -> "torch.cuda.CUDAGraph | None":
    """`work` captured; None, and a warning, where that fails for another reason than want of memory."""
    try:
        with CAPTURING:
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
