"""Where the cameras stand to each other, from TF. tf2_ros is imported late: only who asks for TF needs it."""

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.time import Time

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import rotation_matrix

LATEST = Time()


class TransformSource:
    """Listens to /tf and /tf_static on the node's executor; it has no thread of its own and waits for nothing."""

    def __init__(self, node):
        try:
            import tf2_ros
        except ImportError as error:  # every lookup will say so, and RGB goes on
            self._listener, self._missing = None, str(error)
            return
        self._error = tf2_ros.TransformException
        # Without the node, with which the buffer would offer a service and, up to Jazzy's 0.36.4, raise a TypeError
        # at every clock jump.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        # A looped bag: moving frames of the first pass are newer than all that comes. Static ones are kept.
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=lambda jump: self._buffer.clear(),
        )

    def lookup(self, rgb_frame: str, thermal_frame: str) -> tuple[np.ndarray, np.ndarray]:
        """The latest rotation, (3, 3) float64, and translation_m, (3,) float64, between the cameras; at once.

        rgb_frame, thermal_frame: frame_id of the images; a leading "/", which TF does not know, is left out.

        Convention:
            frame: both frames are optical, x right, y down, z forward.
            direction: p_thermal = rotation @ p_rgb + translation_m.
        Raises RegistrationError naming both frames as long as TF does not connect them, and where tf2_ros is not
        installed.
        """
        if self._listener is None:
            raise RegistrationError(
                f"registration.extrinsics_source is tf, but tf2_ros cannot be imported ({self._missing}): "
                "apt install ros-$ROS_DISTRO-tf2-ros-py, or set registration.extrinsics_source to parameters"
            )
        rgb_frame, thermal_frame = rgb_frame.lstrip("/"), thermal_frame.lstrip("/")
        self._check_names(rgb_frame, thermal_frame)
        try:
            transform = self._buffer.lookup_transform(thermal_frame, rgb_frame, LATEST).transform
        except self._error as error:
            raise RegistrationError(self._advice(rgb_frame, thermal_frame, error)) from error
        q, t = transform.rotation, transform.translation
        return rotation_matrix(q.x, q.y, q.z, q.w), np.array([t.x, t.y, t.z])

    def destroy(self) -> None:
        """Take from the node what was added to it."""
        if self._listener is None:
            return
        self._listener.unregister()
        self._jumps.unregister()

    def _check_names(self, rgb_frame: str, thermal_frame: str) -> None:
        for name, frame in (("RGB", rgb_frame), ("thermal", thermal_frame)):
            if not frame:
                raise RegistrationError(
                    f"the {name} images have no frame_id, by which TF would know the camera: set it in the driver"
                )
        if rgb_frame == thermal_frame:
            raise RegistrationError(
                f"the RGB and the thermal images have the same frame_id, {rgb_frame}: give each camera's driver "
                "the name of its own optical frame"
            )

    def _advice(self, rgb_frame: str, thermal_frame: str, error: Exception) -> str:
        unknown = [frame for frame in (rgb_frame, thermal_frame) if not self._knows(frame)]
        cause = f"{' and '.join(unknown)} unknown so far" if unknown else str(error).strip()
        return (
            f"waiting for TF from {rgb_frame} to {thermal_frame} ({cause}): start robot_state_publisher with both "
            "optical frames, or publish the thermal camera's pose with `ros2 run tf2_ros static_transform_publisher "
            "--x 0 --y 0 --z 0 --qx 0 --qy 0 --qz 0 --qw 1 "
            f"--frame-id {rgb_frame} --child-frame-id {thermal_frame}`"
        )

    def _knows(self, frame: str) -> bool:
        try:
            self._buffer.get_latest_common_time(frame, frame)
        except self._error:
            return False
        return True
