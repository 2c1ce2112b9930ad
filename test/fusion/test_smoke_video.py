"""People behind thick smoke, on real footage: invisible in RGB, visible in the fused picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import identity
from fusionproxy_ros.trials.night_road import contrast

VIDEO = Path(__file__).parents[3] / "shared" / "data" / "video" / "0117_1605"
HIDDEN, SHOWN = (
    0.06,
    0.12,
)  # of 0..1; the fused person must stand out at least twice as much as the hidden limit
FRAMES = range(100, 230, 10)  # people walk in the smoke

pytestmark = pytest.mark.skipif(
    not Path(f"{VIDEO}_rgb.mp4").exists(), reason="the smoke video is not here (../shared/data/video)"
)


def frames(kind):
    video = cv2.VideoCapture(f"{VIDEO}_{kind}.mp4")
    return {i: video.read()[1] for i in range(max(FRAMES) + 1)}


def people(thermal):
    """Masks of upright warm bodies below the warm house fronts, found in the thermal image alone."""
    warm = (thermal > 150).astype(np.uint8)
    warm[: int(0.4 * warm.shape[0])] = 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(warm)
    for i in range(1, count):
        _, _, w, h, area = stats[i]
        if area > 200 and h > 1.2 * w:
            yield labels == i


@pytest.mark.slow
def test_people_hidden_by_smoke_stand_out_in_the_fused_picture():
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings())
    rgbs, thermals = frames("rgb"), frames("thermal")
    hidden = shown = 0
    for i in FRAMES:
        rgb, thermal = rgbs[i], np.ascontiguousarray(thermals[i][..., 1])
        pair = Pair(Frame(i, "", rgb, "bgr8"), Frame(i, "", thermal, "mono8"), Mode.FUSED)
        before, after = (
            cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) for pixels in (rgb, fuser.fuse(pair, identity()).pixels)
        )
        for mask in people(thermal):
            if contrast(before, mask) < HIDDEN:
                hidden += 1
                shown += contrast(after, mask) > SHOWN
    assert hidden >= 10, "the footage no longer shows hidden people: the test proves nothing"
    assert shown >= 0.9 * hidden
