"""fusion.launch.py, through the real launch and launch_ros, gives a fused image on the topic a user asked for."""

import os
import unittest
from pathlib import Path

import pytest

REASON = "is not installed (no registry has it): source a ROS 2 installation to run the launch file for real"
for module in ("launch", "launch_ros", "launch_testing"):
    pytest.importorskip(f"{module}.actions", reason=f"{module} {REASON}")

import launch_testing
import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from domains import own_domain
from fusionproxy_ros.msg import FusionStatus
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fusionproxy_ros.core.image_messages import fill_image
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.harness import Downstream, wait_until

ONE = {"rgb": "/front/image", "thermal": "/flir/image", "fused": "/front/fused", "status": "/front/status"}
SEVERAL = {
    "cameras": "left,right",
    "rgb": "image",
    "thermal": "flir/image",
    "fused": "out",
    "status": "truth",
}


@pytest.mark.launch_test
@launch_testing.parametrize("arguments", [ONE, SEVERAL])
def generate_test_description(arguments):
    os.environ["ROS_DOMAIN_ID"] = own_domain()
    file = Path(get_package_share_directory("fusionproxy_ros")) / "launch" / "fusion.launch.py"
    source = PythonLaunchDescriptionSource(str(file))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=arguments.items()), ReadyToTest()]
    )


class TestFusionLaunch(unittest.TestCase):
    def test_a_fused_image_comes_out_of_the_remapped_topics(self, arguments):
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("test", context=context)
        names = arguments.get("cameras", "").split(",")
        with Spinner(node):
            for name in names:
                below = f"/{name}/" if name else ""
                topics = {key: below + topic for key, topic in arguments.items()}
                self.fuses(node, topics)
        node.destroy_node()
        rclpy.try_shutdown(context=context)

    def fuses(self, node, topics):
        down = Downstream(node, topics["fused"], topics["status"])
        cameras = [node.create_publisher(Image, topics[name], 10) for name in ("thermal", "rgb")]
        wait_until(lambda: all(c.get_subscription_count() for c in cameras), 30, "fusion node subscribing")
        header = Header(frame_id="camera")
        header.stamp.sec = 5
        for camera, encoding, shape in zip(cameras, ("mono8", "rgb8"), ((64, 64), (64, 64, 3)), strict=True):
            camera.publish(fill_image(Image(), header, np.full(shape, 90, np.uint8), encoding))
        wait_until(lambda: down.images and down.statuses, 10, "answer on the remapped topics")
        self.assertEqual(down.statuses[0].mode, FusionStatus.FUSED)
        self.assertEqual(down.images[0][1].header, header)
