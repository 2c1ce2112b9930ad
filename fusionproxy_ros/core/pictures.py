"""Pictures as arrays: channel order, luma, grey levels, overlays and captions."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np

from fusionproxy_ros.core.frames import Frame

Item = TypeVar("Item")
LINE_PX = 26  # height of one line of a caption


def luma_of(frame: Frame) -> np.ndarray:
    """(H, W) uint8 luminance (BT.601) of a colour frame."""
    return cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2GRAY if frame.encoding == "rgb8" else cv2.COLOR_BGR2GRAY)


def bgr_of(frame: Frame) -> np.ndarray:
    """(H, W, 3) uint8, BGR, of a colour frame; its own pixels where they are that."""
    return frame.pixels if frame.encoding == "bgr8" else cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR)


def overlay(rgb: Frame, thermal: np.ndarray) -> np.ndarray:
    """Registered thermal, (H, W) uint8, in false colour half over the picture: shows misregistration at a glance."""
    heat = cv2.applyColorMap(thermal, cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(rgb.pixels, 0.5, heat[..., ::-1] if rgb.encoding == "rgb8" else heat, 0.5, 0)


def to_grey_levels(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> 0..255 uint8, rounded and clipped."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def captioned(picture: np.ndarray, *lines: str) -> np.ndarray:
    """The picture, (H, W, 3) uint8, under a black bar with lines of white text."""
    bar = np.zeros((LINE_PX * len(lines), picture.shape[1], 3), np.uint8)
    for number, text in enumerate(lines, start=1):
        at_px = 8, LINE_PX * number - 9
        cv2.putText(bar, text, at_px, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly over their order."""
    places = np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int)
    return [items[place] for place in places]
