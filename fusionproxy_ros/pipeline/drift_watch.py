"""Looks at the fused stream a few times a second, in the background, for thermal that has drifted off RGB."""

from fusionproxy_ros.alignment.drift import Misalignment, MisalignmentMonitor, corrected_shift
from fusionproxy_ros.alignment.settings import DriftSettings
from fusionproxy_ros.core.background import run_in_background
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import NS_PER_S, Mode
from fusionproxy_ros.core.pictures import luma_of
from fusionproxy_ros.pipeline.answers import Answer
from fusionproxy_ros.pipeline.live_registration import LiveRegistration

CHECK_PERIOD_NS = 300_000_000  # between looks at the misalignment, in stamp time
MAX_SKEW_NS = 20_000_000  # what moves between the two exposures lies off as well
STALE_NS = 2 * NS_PER_S  # an estimate without a successor


class DriftWatch:
    """Offered every answer by the worker; looks at some of them in a background thread, one at a time.

    estimate: the latest, written by that thread; None while the pictures give none. Where settings allow, it also
    corrects `registration`.
    """

    def __init__(self, registration: LiveRegistration):
        self._registration, self._monitor = registration, MisalignmentMonitor()
        self._busy = False
        self._last_ns = 0
        self.estimate: Misalignment | None = None

    def offer(self, answer: Answer, settings: DriftSettings) -> None:
        """Looked at when it is FUSED, the last look is done, and long enough ago."""
        pair = answer.pair
        if self.estimate and abs(pair.rgb.stamp_ns - self.estimate.stamp_ns) > STALE_NS:
            self.estimate = None
        due = abs(pair.rgb.stamp_ns - self._last_ns) >= CHECK_PERIOD_NS
        matches = answer.fused.mode is Mode.FUSED and abs(pair.skew_ns) <= MAX_SKEW_NS
        if settings.warn_px and due and not self._busy and matches:
            self._busy, self._last_ns = True, pair.rgb.stamp_ns
            run_in_background(self._look, answer, settings.refine_max_px)

    def _look(self, answer: Answer, refine_max_px: float) -> None:
        try:
            pair, fused, current = answer.pair, answer.fused, answer.current
            assert current is not None and fused.thermal is not None
            used = current.registration
            epoch = pair.epoch, used
            luma = luma_of(pair.rgb)
            self.estimate = self._monitor.update(luma, fused.thermal, fused.mask, pair.rgb.stamp_ns, epoch)
            is_latest = used.shift_px == self._registration.shift_px  # else a correction is on its way
            if refine_max_px and is_latest:
                shift_px = corrected_shift(used.shift_px, self.estimate, refine_max_px)
                if shift_px != used.shift_px:
                    self._registration.set_shift(shift_px)
        except FusionError:  # images too small to compare
            self.estimate = None
        finally:
            self._busy = False
