"""From fused luma to a colour picture: RGB's colour stays, but where thermal brightens what RGB hardly saw."""

import numpy as np

from fusionproxy_ros import native

LIT, DARK = 80, 40  # of RGB's luma: from here on colour stays as it is; from here on down it may fade
RISE = 60  # grey levels that fused luma lies above a dark pixel's when all its colour has faded


def _kept() -> np.ndarray:
    luma, fused = np.mgrid[:256, :256].astype(np.float64)
    dark = np.clip((LIT - luma) / (LIT - DARK), 0, 1)
    return np.rint(128 * (1 - dark * np.clip((fused - luma) / RISE, 0, 1))).astype(np.uint8)


KEPT = _kept()  # share of a pixel's colour that stays, in 128ths, by luma and fused luma
KEPT.setflags(write=False)


def add_luma(rgb: np.ndarray, luma: np.ndarray, fused_luma: np.ndarray, threads: int = 1) -> np.ndarray:
    """Colour picture of luminance `fused_luma`, (H, W, 3) uint8: fused_luma + KEPT / 128 (rgb - luma), rounded.

    rgb: (H, W, 3) uint8, either channel order; luma, fused_luma: (H, W) uint8, `luma` being that of `rgb`. threads: of
    the compiled code, where it is installed.

    Where all colour is kept, Cb and Cr of BT.601 stay as they are, up to clipping. Where it is dark, RGB's colour is
    noise, or that of what lies beside a warm body, for no rig is aligned to the pixel; on what thermal brightens there
    it would be shown as bright as if RGB had seen it, and detectors, who know no green people, miss them.
    """
    if native.is_installed():
        return native.add_luma(rgb, luma, fused_luma, KEPT, threads)
    difference = rgb.astype(np.int32) - luma[..., None]
    difference *= KEPT[luma, fused_luma][..., None]
    return (fused_luma[..., None] + (difference + 64 >> 7)).clip(0, 255).astype(np.uint8)
