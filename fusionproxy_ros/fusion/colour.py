"""From fused luma to a colour picture: RGB's colour stays, but where thermal brightens what RGB hardly saw."""

import numpy as np

# The node runs the same formula in src/student.c and in gpu.py: change all three, tests hold them together.
LIT, DARK = 70, 35  # brightest channel: from here on colour stays as it is; from here on down it may fade
RISE = 50  # grey levels of luma that a dark pixel has gained when all its colour has faded


def add_luma(rgb: np.ndarray, luma: np.ndarray, fused_luma: np.ndarray) -> np.ndarray:
    """Colour picture of luminance `fused_luma`, (H, W, 3) uint8.

    rgb: (H, W, 3) uint8, either channel order. luma: (H, W) uint8, that of `rgb`. fused_luma: (H, W) uint8, or float32
    in grey levels: before rounding, since what moves luma by one level may move a channel by almost two.

    With Y luma, F fused luma, C a channel, B the brightest:

        F + (C - Y) (1 - dark rise), dark = (LIT - B) / (LIT - DARK), rise = (F - Y) / RISE, both cut to [0, 1]

    Where all colour is kept, Cb and Cr of BT.601 stay as they are, up to clipping. Where it is dark, RGB's colour is
    noise, or that of what lies beside a warm body, for no rig is aligned to the pixel; on what thermal brightens there
    it would be shown as bright as if RGB had seen it, and detectors, who know no green people, miss them. Dark is what
    is so in all channels: a blue lamp has little luma.
    """
    luma, fused = (plane[..., None].astype(np.float32) for plane in (luma, fused_luma))
    dark = (LIT - rgb.max(-1, keepdims=True).astype(np.float32)).clip(0, LIT - DARK)
    rise = (fused - luma).clip(0, RISE)
    kept = 1 - dark * rise * np.float32(1 / ((LIT - DARK) * RISE))
    return ((fused + kept * (rgb - luma)).clip(0, 255) + np.float32(0.5)).astype(np.uint8)
