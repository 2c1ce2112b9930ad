"""From fused luma to a colour picture: RGB's colour stays, but where thermal brightens what RGB hardly saw."""

import numpy as np

LIT, DARK = 70, 35  # brightest channel: from here on colour stays as it is; from here on down it may fade
RISE = 50  # grey levels of luma that a dark pixel has gained when all its colour has faded


def _kept() -> np.ndarray:
    brightest, gain = np.mgrid[:256, :256].astype(np.float64)
    dark = np.clip((LIT - brightest) / (LIT - DARK), 0, 1)
    return np.rint(128 * (1 - dark * np.clip(gain / RISE, 0, 1))).astype(np.uint8)


# Share of a pixel's colour that stays, in 128ths, by its brightest channel and its gain, max(fused_luma - luma, 0).
KEPT = _kept()
KEPT.setflags(write=False)


def add_luma(rgb: np.ndarray, luma: np.ndarray, fused_luma: np.ndarray) -> np.ndarray:
    """Colour picture of luminance `fused_luma`, (H, W, 3) uint8: fused_luma + KEPT / 128 (rgb - luma), rounded.

    rgb: (H, W, 3) uint8, either channel order; luma, fused_luma: (H, W) uint8, `luma` being that of `rgb`.
    native.add_luma is the same picture by compiled code.

    Where all colour is kept, Cb and Cr of BT.601 stay as they are, up to clipping. Where it is dark, RGB's colour is
    noise, or that of what lies beside a warm body, for no rig is aligned to the pixel; on what thermal brightens there
    it would be shown as bright as if RGB had seen it, and detectors, who know no green people, miss them. Dark is what
    is so in all channels: a blue lamp has little luma.
    """
    kept = KEPT[rgb.max(-1), np.maximum(fused_luma, luma) - luma]
    difference = (rgb.astype(np.int32) - luma[..., None]) * kept[..., None]
    return (fused_luma[..., None] + (difference + 64 >> 7)).clip(0, 255).astype(np.uint8)
