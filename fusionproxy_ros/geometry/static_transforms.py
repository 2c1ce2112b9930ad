"""How the cameras sit to each other, from the /tf_static of a recording; the live node asks tf2_ros."""

from typing import Any

import numpy as np

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import rotation_matrix

TF_STATIC = "/tf_static"


class StaticTransforms:
    """A tree of frames, each known by its parent and its pose in it."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, msg: Any) -> None:
        """The transforms of a tf2_msgs/TFMessage; a later one of the same child replaces an earlier one."""
        for stamped in msg.transforms:
            q, t = stamped.transform.rotation, stamped.transform.translation
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation_matrix(q.x, q.y, q.z, q.w), (t.x, t.y, t.z)
            self._parents[stamped.child_frame_id.lstrip("/")] = stamped.header.frame_id.lstrip("/"), pose

    def lookup(self, rgb_frame: str, thermal_frame: str) -> tuple[np.ndarray, np.ndarray]:
        """Rotation, (3, 3), and translation_m, (3,), of p_thermal = rotation @ p_rgb + translation_m.

        As ros.transforms.TransformSource.lookup. Raises RegistrationError where the tree does not connect the frames.
        """
        rgb, thermal = (self._to_root(frame.lstrip("/")) for frame in (rgb_frame, thermal_frame))
        if rgb_frame == thermal_frame or rgb[0] != thermal[0]:
            raise RegistrationError(
                f"the recording's {TF_STATIC} does not connect '{rgb_frame}' with '{thermal_frame}': record it, or set "
                "registration.extrinsics_source to parameters"
            )
        motion = np.linalg.inv(thermal[1]) @ rgb[1]
        return motion[:3, :3], motion[:3, 3]

    def _to_root(self, frame: str) -> tuple[str, np.ndarray]:
        """The root of a frame's tree, and the frame's pose in it."""
        pose, seen = np.eye(4), {frame}
        while frame in self._parents:
            frame, step = self._parents[frame]
            pose = step @ pose
            if frame in seen:
                raise RegistrationError(f"the recording's {TF_STATIC} goes round in a circle at '{frame}'")
            seen.add(frame)
        return frame, pose
