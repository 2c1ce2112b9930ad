"""What a fused picture shows in the dark: thermal where it is warmer than its surroundings, RGB everywhere else.

A likelihood weighs all of a picture alike, and draws thermal's background wherever RGB is black. RGB detectors find
people by less: a dark road with a person on it, not a road of two textures.
"""

import cv2
import numpy as np

SURROUNDINGS_PX, DETAIL_PX = 30, 6  # deviations of Gaussians
DARK, DARKER = 80 / 255, 40 / 255  # luma of surroundings: dark begins, is complete
WARM, WARMER = 10 / 255, 40 / 255  # thermal above its surroundings: warm begins, is complete
DETAIL = 0.5  # of RGB's detail that stays on what is warm


def at_night(luma: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `fused` becomes in the dark, and where that is because of warmth; all (H, W) float32 in [0, 1].

    fused, and so what becomes of it, may be (K, H, W).

    With Y luma, T thermal, F fused, G_s a Gaussian of deviation s, and ramp(x) = x cut to [0, 1]:

        dark = ramp((DARK - G_30 Y) / (DARK - DARKER)), warm = dark ramp((T - G_30 T - WARM) / (WARMER - WARM))
        calm = F + dark (Y - F), result = calm + warm (T + (Y - G_6 Y) / 2 - calm)

    So a lit place stays as it is, the dark becomes RGB's, and what is warm in it thermal's, with RGB's detail on top.
    """

    def blurred(image, deviation_px):
        return cv2.GaussianBlur(image, (0, 0), deviation_px)

    dark = np.clip((DARK - blurred(luma, SURROUNDINGS_PX)) / (DARK - DARKER), 0, 1)
    above = thermal - blurred(thermal, SURROUNDINGS_PX)
    warm = dark * np.clip((above - WARM) / (WARMER - WARM), 0, 1)
    calm = fused + dark * (luma - fused)
    shown = thermal + DETAIL * (luma - blurred(luma, DETAIL_PX))
    return np.clip(calm + warm * (shown - calm), 0, 1), warm.astype(np.float32)
