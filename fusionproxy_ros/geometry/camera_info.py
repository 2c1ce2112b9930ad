"""sensor_msgs/CameraInfo <-> Camera."""

import numpy as np

from fusionproxy_ros.geometry.camera import Camera


def camera_info_fields(camera: Camera) -> dict:
    """The fields of a CameraInfo of a raw image, by name: sizes and model as they are, matrices as flat float64.

    Those that are left out (binning, roi) mean the full image. Both rclpy's messages and those of rosbags take them.
    """
    return {
        "height": camera.height_px,
        "width": camera.width_px,
        "distortion_model": camera.distortion_model,
        "d": np.asarray(camera.d, np.float64),
        "k": camera.k.reshape(-1).astype(np.float64),
        "r": np.eye(3).reshape(-1),
        "p": np.hstack([camera.k, np.zeros((3, 1))]).reshape(-1),
    }


def read_camera_info(msg, rectified: bool = False) -> Camera:
    """Intrinsics of the images that a sensor_msgs/CameraInfo goes with: its region of interest, binned.

    Checked where they are used, in registration.
    rectified: of the undistorted image (P without its fourth column, no distortion), not of the raw one (K and D).

    Convention: CameraInfo's K and P are of the full, unbinned image; its roi is in pixels of that image and comes
        before binning; 0 stands for the full image and for no binning. Pixel centres are at integers, so that
        c' + 0.5 = (c - offset + 0.5) / binning.
    """
    k = np.array(msg.p).reshape(3, 4)[:, :3] if rectified else np.array(msg.k).reshape(3, 3)
    roi, binning = msg.roi, np.array([max(msg.binning_x, 1), max(msg.binning_y, 1)])
    width_px, height_px = (roi.width, roi.height) if roi.width and roi.height else (msg.width, msg.height)
    if k[2, 2]:  # else uncalibrated, and to be seen as such
        k[:2] /= binning[:, None]
        k[:2, 2] += 0.5 / binning - 0.5 - (roi.x_offset, roi.y_offset) / binning
    size_px = width_px // int(binning[0]), height_px // int(binning[1])
    if rectified:
        return Camera(*size_px, k)
    return Camera(*size_px, k, msg.distortion_model or "plumb_bob", np.array(msg.d))


def intrinsics(msg) -> tuple:
    """What of a CameraInfo says how to project; equal for two messages of one calibration."""
    roi = msg.roi
    return (
        *(msg.width, msg.height, msg.binning_x, msg.binning_y),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height),
        # As bytes: NaN differs from itself, and would be another calibration with each message.
        *(msg.distortion_model, *(np.array(v, np.float64).tobytes() for v in (msg.d, msg.k, msg.p))),
    )
