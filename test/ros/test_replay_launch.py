"""replay.launch.py, through the real launch and launch_ros: a recording goes through the node to a topic of choice."""

import os
import tempfile
import unittest
from pathlib import Path

import pytest

REASON = "is not installed (no registry has it): source a ROS 2 installation to run the launch file for real"
for module in ("launch", "launch_ros", "launch_testing"):
    pytest.importorskip(f"{module}.actions", reason=f"{module} {REASON}")

import rclpy
from ament_index_python.packages import get_package_share_directory
from domains import own_domain
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from recordings import camera_stream, textures, write_bag

from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.harness import Downstream, wait_until

FRAMES = 60
FOLDER = tempfile.TemporaryDirectory(prefix="fusionproxy_")  # gone with this process
TOPICS = {"rgb": "/front/image", "thermal": "/flir/image", "fused": "/front/fused", "status": "/front/status"}


@pytest.mark.launch_test
def generate_test_description():
    os.environ["ROS_DOMAIN_ID"] = own_domain()
    bag = Path(FOLDER.name) / "bag"
    write_bag(bag, camera_stream(textures(FRAMES), TOPICS["rgb"], TOPICS["thermal"]), "SQLITE3")
    file = Path(get_package_share_directory("fusionproxy_ros")) / "launch" / "replay.launch.py"
    arguments = {**TOPICS, "bag": str(bag), "viewer": "foxglove"}
    source = PythonLaunchDescriptionSource(str(file))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=arguments.items()), ReadyToTest()]
    )


class TestReplayLaunch(unittest.TestCase):
    def test_every_recorded_frame_is_answered_on_the_remapped_topic(self):
        rclpy.init()
        node = rclpy.create_node("test")
        with Spinner(node):
            down = Downstream(node, TOPICS["fused"], TOPICS["status"])
            wait_until(lambda: len(down.statuses) == FRAMES, 60, "an answer for every frame")
            wait_until(lambda: node.count_publishers("/clock"), 5, "the clock")
        self.assertGreater(len(down.images), FRAMES // 2)  # the others were dropped by overload, and counted
        node.destroy_node()
        rclpy.try_shutdown()
