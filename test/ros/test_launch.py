"""fusion.launch.py, through the real launch and launch_ros, gives a fused image on the topic a user asked for."""

import os
import random
import unittest
from pathlib import Path

import pytest

REASON = "is not installed (no registry has it): source a ROS 2 installation to run the launch file for real"
for module in ("launch", "launch_ros", "launch_testing"):
    pytest.importorskip(f"{module}.actions", reason=f"{module} {REASON}")

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from fusionproxy_ros.msg import FusionStatus
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fusionproxy_ros.demo import Downstream, Spinner, wait_until
from fusionproxy_ros.messages import fill_image

TOPICS = {"rgb": "/front/image", "thermal": "/flir/image", "fused": "/front/fused", "status": "/front/status"}


@pytest.mark.launch_test
def generate_test_description():
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
    file = Path(get_package_share_directory("fusionproxy_ros")) / "launch" / "fusion.launch.py"
    source = PythonLaunchDescriptionSource(str(file))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=TOPICS.items()), ReadyToTest()]
    )


class TestFusionLaunch(unittest.TestCase):
    def test_a_fused_image_comes_out_of_the_remapped_topic(self):
        rclpy.init()
        node = rclpy.create_node("test")
        with Spinner(node):
            down = Downstream(node, TOPICS["fused"], TOPICS["status"])
            cameras = [node.create_publisher(Image, TOPICS[name], 10) for name in ("thermal", "rgb")]
            wait_until(
                lambda: all(c.get_subscription_count() for c in cameras), 30, "fusion node subscribing"
            )
            header = Header(frame_id="camera")
            header.stamp.sec = 5
            for camera, encoding, shape in zip(
                cameras, ("mono8", "rgb8"), ((64, 64), (64, 64, 3)), strict=True
            ):
                camera.publish(fill_image(Image(), header, np.full(shape, 90, np.uint8), encoding))
            wait_until(lambda: down.images and down.statuses, 10, "answer on the remapped topics")
        self.assertEqual(down.statuses[0].mode, FusionStatus.FUSED)
        self.assertEqual(down.images[0][1].header, header)
        node.destroy_node()
        rclpy.try_shutdown()
