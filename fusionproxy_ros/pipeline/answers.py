"""Every RGB frame gets an answer: a picture, a mode and a reason. This is the only place that makes it.

The live node, recordings and folders of pictures all come here, so they give the same pixels, the same mode and the
same reason. pairing/ says which thermal frame a pair has, or why it has none; what cannot be fused raises NotFusedError
elsewhere, and becomes RGB here, passed through for that reason.
"""

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import NS_PER_S, Fused, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser, PreparedThermal
from fusionproxy_ros.pipeline.live_registration import CurrentRegistration

NO_DEPTH = "no depth image within registration.depth_tolerance_s: thermal lies on the plane"
CONTRAST_LIMITED = "thermal's edges lie beside RGB's: it is shown with less contrast; calibrate the cameras"
SHOWN_BELOW = 0.9  # of thermal's contrast: less is worth a reason
OVERLOAD = "overload: older than max_latency_s, and a newer frame is ready"
STALLS = "fusing takes far longer than usual: RGB passes meanwhile"
HANGS = "fusing hangs: RGB passes, and after a while it begins anew on the CPU; see what ails the GPU (dmesg)"
HANGS_NS = NS_PER_S
Made = TypeVar("Made")
Lend = Callable[[], AbstractContextManager[Fuser]]  # raises NotFusedError while there is none to lend


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pair whose mode and reason are decided and whose picture is not made yet.

    thermal: None where RGB passes.
    """

    pair: Pair
    mode: Mode
    reason: str
    current: CurrentRegistration | None = None
    thermal: PreparedThermal | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What is published for a pair. current: how thermal was registered; None where RGB passes. start_ns: of fusing."""

    pair: Pair
    fused: Fused
    current: CurrentRegistration | None = None
    start_ns: int = 0


class Answers:
    """Decides for one camera pair.

    registration: asked once for each pair that has thermal; may raise NotFusedError.
    lend: lends the fuser, which keeps state from pair to pair.
    wants_depth: registration is by depth; a pair without a depth image is fused on the plane, and says so.
    report: called where an exception is a fault and no reason, while it is in hand.
    """

    def __init__(
        self,
        registration: Callable[[Pair], CurrentRegistration],
        lend: Lend,
        wants_depth: bool = False,
        report: Callable[[], None] = traceback.print_exc,
    ):
        self._registration, self._lend = registration, lend
        self._wants_depth, self._report = wants_depth, report

    def answer(self, pair: Pair) -> Answer:
        """The whole answer. Never raises: whatever one frame does, it is answered."""
        start_ns = time.monotonic_ns()

        def fuse(fuser: Fuser, current: CurrentRegistration) -> Answer:
            return self._finished(fuser, self._decided(fuser, pair, current), start_ns)

        made = self._with_fuser(pair, fuse)
        return Answer(pair, _passed(pair, made), None, start_ns) if isinstance(made, str) else made

    def prepare(self, pair: Pair) -> Prepared:
        """All that depends on the pairs before: call it in their order. Never raises. `finish` makes the answer."""
        made = self._with_fuser(pair, lambda fuser, current: self._decided(fuser, pair, current))
        return Prepared(pair, Mode.PASSTHROUGH, made) if isinstance(made, str) else made

    def finish(self, prepared: Prepared) -> Answer:
        """The answer, in any order and from any thread. Raises what the student raises: the mode stands by now."""
        if prepared.thermal is None:
            return Answer(prepared.pair, _passed(prepared.pair, prepared.reason))
        with self._lend() as fuser:
            return self._finished(fuser, prepared)

    def _with_fuser(self, pair: Pair, use: Callable[[Fuser, CurrentRegistration], Made]) -> Made | str:
        """What `use` makes, or the reason why thermal cannot be used. The fuser is borrowed once."""
        if pair.thermal is None:
            return pair.reason
        try:
            current = self._registration(pair)
            with self._lend() as fuser:
                return use(fuser, current)
        except FusionError as error:
            return str(error)
        except Exception as error:
            self._report()
            return f"{type(error).__name__}: {error}"

    def _decided(self, fuser: Fuser, pair: Pair, current: CurrentRegistration) -> Prepared:
        thermal = fuser.prepare(pair, current.registration)
        lacks_depth = self._wants_depth and pair.depth is None
        limited = thermal.contrast < SHOWN_BELOW
        reason = pair.reason or (NO_DEPTH if lacks_depth else CONTRAST_LIMITED if limited else "")
        return Prepared(pair, pair.mode, reason, current, thermal)

    def _finished(self, fuser: Fuser, prepared: Prepared, start_ns: int = 0) -> Answer:
        assert prepared.thermal is not None
        picture = fuser.finish(prepared.pair.rgb, prepared.thermal)
        fused = Fused(**vars(picture), mode=prepared.mode, reason=prepared.reason)
        return Answer(prepared.pair, fused, prepared.current, start_ns)


def stalled(pair: Pair, stalled_ns: int) -> Answer:
    """RGB passes because fusing has taken this long already and is not done."""
    return Answer(pair, _passed(pair, HANGS if stalled_ns > HANGS_NS else STALLS), None, time.monotonic_ns())


def _passed(pair: Pair, reason: str) -> Fused:
    return Fused(pair.rgb.pixels, mode=Mode.PASSTHROUGH, reason=reason)
