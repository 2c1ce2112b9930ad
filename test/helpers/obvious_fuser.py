"""The obvious way to write the core of a fusion node: what its parts' documentation shows, without a second thought.

Same calibration, same weights; what bench_core.py and tests measure ours against.
"""

import array

import cv2
import numpy as np
import torch
import torch.nn.functional as F


class ObviousFuser:
    """Images' bytes in, an Image's `data` out."""

    def __init__(self, student, calibration, plane_depth_m, rgb_size_px, threads):
        torch.set_num_threads(threads)
        self.student = student.to(memory_format=torch.contiguous_format)
        self.rgb_size_px = rgb_size_px
        self.thermal = calibration.thermal
        rotation, translation_m = calibration.rotation, calibration.translation_m
        plane = rotation + np.outer(translation_m, [0, 0, 1 / plane_depth_m])
        self.to_rgb = np.linalg.inv(calibration.thermal.k @ plane @ np.linalg.inv(calibration.rgb.k))

    def fuse(self, rgb_bytes, thermal_bytes, thermal_shape):
        """As a callback would; (H, W, 3) uint8 and the outgoing array."""
        width, height = self.rgb_size_px
        rgb = (
            np.frombuffer(rgb_bytes, np.uint8).reshape(height, width, 3).copy()
        )  # as cv_bridge's desired_encoding
        counts = np.frombuffer(thermal_bytes, np.uint16).reshape(thermal_shape).copy()
        low, high = np.percentile(counts, (1, 99.9))
        grey = (np.clip((counts - low) / max(high - low, 200), 0, 1) * 255).astype(np.uint8)
        grey = cv2.warpPerspective(
            cv2.undistort(grey, self.thermal.k, self.thermal.d), self.to_rgb, self.rgb_size_px
        )
        seen = cv2.warpPerspective(np.ones(thermal_shape, np.uint8), self.to_rgb, self.rgb_size_px)
        ycrcb = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
        planes = (torch.from_numpy(plane)[None, None].float() for plane in (ycrcb[..., 0], grey, seen))
        luma, thermal, weight = planes
        with torch.no_grad():
            fused = self._run(luma / 255, thermal / 255, weight)
        ycrcb[..., 0] = (fused[0, 0] * 255).round().clamp(0, 255).byte().numpy()
        fused = cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)
        return fused, array.array("B", fused.tobytes())

    def _run(self, luma, thermal, weight):
        """The student's formula as the paper's authors would write it."""
        s = self.student
        thermal = (thermal - (weight * thermal).sum() / weight.sum()) * weight
        x4 = F.relu(s.stem(torch.cat([luma, thermal], 1)))
        x8 = F.relu(s.enc8(F.relu(s.down8(x4))))
        x16 = F.relu(s.enc16(F.relu(s.down16(x8))))
        x16 = x16 + s.context(x16.mean((2, 3)))[..., None, None]
        x16 = F.relu(s.dec16(x16))
        x8 = F.relu(s.dec8(F.interpolate(s.up8(x16), scale_factor=2) + x8))
        x4 = F.relu(s.dec4(F.interpolate(s.up4(x8), scale_factor=2) + x4))
        coefficients = F.interpolate(F.pixel_shuffle(s.head(x4), 2), scale_factor=2, mode="bilinear")
        a, b, m, c = coefficients.split(1, 1)
        fused = (a * luma + b * thermal + m * torch.maximum(luma, thermal) + c).clamp(0, 1)
        return luma + weight * (fused - luma)
