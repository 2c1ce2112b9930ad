"""The fusers of all camera pairs, built anew when one fails."""

import math
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusionproxy_ros.core.background import run_in_background
from fusionproxy_ros.core.errors import FusionError, NotFusedError
from fusionproxy_ros.fusion.devices import free_gpu_memory
from fusionproxy_ros.fusion.fuser import Fuser

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0  # before the fuser is built again; doubled at each failure
CALM_S = 60.0  # without a failure: the delay is short again


class FuserPool:
    """Owns the fusers, one for each camera pair; those of different pairs may be used at once. When one raises (out of
    memory, a CUDA error), all are dropped, since they share the device, and built anew, with back-off.

    build(device): makes a fuser, warmed up, by the name of each pair; may raise. The first time is here, and its errors
        are raised.
    device: to build on; "cpu" is tried when that fails later, since a broken CUDA context never recovers, and for
        "auto" at the start too: torch may see a GPU that it has no kernels or no memory for.
    log: told of every failure, with its traceback.

    A call into a driver that never returns is left to itself (`abandon`): its thread keeps what it holds.
    """

    def __init__(self, build: Callable[[str], dict[str, Fuser]], device: str, log: Callable[[str], None]):
        self._build, self._device, self._log = build, device, log
        try:
            self._fusers = build(device)  # none while they are built anew
        except RuntimeError:
            if device != "auto":
                raise
            log(traceback.format_exc())
            self._fusers = build("cpu")
        self._delay_s, self._failed_s = FIRST_DELAY_S, -math.inf
        self._closed = self._lost = False  # lost: the device hangs and is not to be touched again
        self._dropping = threading.Lock()
        # By a worker: one that hangs is left behind when the node is deactivated, and its fuser is still its own.
        self._in_use: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.error = ""  # of the last failure, until fusers work again

    def close(self) -> None:
        """Forget the fusers, and their memory; a rebuild that waits does nothing any more."""
        self._closed, self._fusers = True, {}
        if not self._lost:
            free_gpu_memory()

    def abandon(self, name: str) -> None:
        """The thread that borrowed the fuser of `name` will not return: leave it behind, and rebuild on the CPU."""
        self._log("fusing hangs for good: its thread is left behind, and fusing begins anew on the CPU")
        with self._dropping:
            self._in_use[name] = threading.Lock()
            if self._lost and not self._fusers:
                return  # as another pair's did, and they are being built
            self.error = "fusing hangs for good; it begins anew on the CPU"
            self._lost, self._device, self._fusers = True, "cpu", {}
        run_in_background(self._rebuild)

    @contextmanager
    def lend(self, name: str) -> Iterator[Fuser]:
        """The fuser of the cameras `name`, in a `with` statement. What it raises there drops it.

        Raises NotFusedError while there is none, and in place of what the fuser raised.
        """
        fuser, in_use = self._fusers.get(name), self._in_use[name]
        if fuser is None:
            raise NotFusedError(f"the fuser failed and is built again: {self.error}")
        if not in_use.acquire(blocking=False):
            raise NotFusedError("fusing hangs with a frame from before the node was deactivated")
        try:
            yield fuser
        except FusionError:  # of this frame, not of the fuser
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._drop(name, fuser, reason)
            raise NotFusedError(f"the fuser failed: {reason}") from error
        finally:
            in_use.release()

    def _drop(self, name: str, fuser: Fuser, reason: str) -> None:
        """Build anew after the exception in hand, unless `fuser` was abandoned, or dropped for another's."""
        with self._dropping:
            if self._fusers.get(name) is not fuser:
                return
            self._fusers = {}
        self.error = reason
        self._log(traceback.format_exc())
        now_s = time.monotonic()
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        if now_s - self._failed_s > CALM_S:
            self._delay_s = FIRST_DELAY_S
        self._failed_s = now_s
        free_gpu_memory()
        run_in_background(self._rebuild)

    def _rebuild(self) -> None:
        while not self._closed:
            time.sleep(self._delay_s)
            for device in dict.fromkeys((self._device, "cpu")):
                try:
                    fusers = self._build(device)
                except Exception as error:
                    self.error = f"{type(error).__name__}: {error}"
                    self._log(traceback.format_exc())
                    continue
                if not self._closed:
                    self._fusers, self.error = fusers, ""
                return
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
