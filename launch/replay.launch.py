"""Play a recording through the fusion node and look at it:

ros2 launch fusionproxy_ros replay.launch.py bag:=drive rgb:=/front/image_raw thermal:=/flir/image_raw viewer:=rviz
"""

import os
import shutil

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

CLOCK_HZ = "100"
DISTRO = os.environ.get("ROS_DISTRO", "DISTRO")
# Argument of fusion.launch.py -> its default topic, which config/fusion.rviz shows.
VIEWED = {"rgb": "/rgb/image_raw", "thermal": "/thermal/image_raw", "fused": "/fused/image"}


def installed(package):
    try:
        return bool(get_package_prefix(package))
    except PackageNotFoundError:
        return False


def check(context):
    """Before anything starts: what is missing."""
    bag = LaunchConfiguration("bag").perform(context)
    if not os.path.exists(bag):
        raise RuntimeError(f"bag:={bag}: no such recording; give a folder that ros2 bag record has made")
    if LaunchConfiguration("viewer").perform(context) == "rviz" and not installed("rviz2"):
        raise RuntimeError(
            f"viewer:=rviz: rviz2 is not installed: apt install ros-{DISTRO}-rviz2, or viewer:=none"
        )


def player(context):
    """`ros2 bag play`, or our own where rosbag2 is not installed."""
    bag, rate, offset_s, delay_s, loop = (
        LaunchConfiguration(name).perform(context)
        for name in ("bag", "rate", "start_offset_s", "delay_s", "loop")
    )
    options = ["--rate", rate] + (["--loop"] if loop == "true" else [])
    if installed("ros2bag") and shutil.which("ros2"):
        command = ["ros2", "bag", "play", bag, "--clock", CLOCK_HZ, "--start-offset", offset_s]
        command += ["--disable-keyboard-controls"]
    else:
        command = [ExecutableInPackage("fusionproxy", "fusionproxy_ros"), "replay", bag]
        command += ["--clock-hz", CLOCK_HZ, "--start-offset-s", offset_s]
    process = ExecuteProcess(cmd=[*command, *options], output="screen")
    return [TimerAction(period=float(delay_s), actions=[process])]


def viewer(context):
    """What viewer:= asks for."""
    kind = LaunchConfiguration("viewer").perform(context)
    config = os.path.join(get_package_share_directory("fusionproxy_ros"), "config")
    sim_time = [{"use_sim_time": True}]
    if kind == "rviz":
        namespace = "/" + LaunchConfiguration("namespace").perform(context).strip("/")
        # os.path.join: an absolute topic stands for itself, others live in the namespace.
        remappings = [
            (topic, os.path.join(namespace, LaunchConfiguration(name).perform(context)))
            for name, topic in VIEWED.items()
        ]
        remappings += [("/fusion/debug/overlay", os.path.join(namespace, "fusion/debug/overlay"))]
        arguments = ["-d", os.path.join(config, "fusion.rviz")]
        return [
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=arguments,
                parameters=sim_time,
                remappings=remappings,
            )
        ]
    if kind == "foxglove":
        layout = os.path.join(config, "foxglove_layout.json")
        told = LogInfo(msg=f"Foxglove: open ws://localhost:8765 and import the layout {layout}")
        if not installed("foxglove_bridge"):
            cure = f"apt install ros-{DISTRO}-foxglove-bridge, or start one elsewhere"
            return [told, LogInfo(msg=f"viewer:=foxglove: foxglove_bridge is not installed: {cure}")]
        return [told, Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=sim_time)]
    return []


def generate_launch_description():
    share = get_package_share_directory("fusionproxy_ros")
    arguments = [
        DeclareLaunchArgument("bag", description="rosbag2 recording, sqlite3 or MCAP: its folder or file"),
        DeclareLaunchArgument("rate", default_value="1.0", description="how many times faster than recorded"),
        DeclareLaunchArgument(
            "loop", default_value="false", choices=["true", "false"], description="start over at the end"
        ),
        DeclareLaunchArgument(
            "start_offset_s", default_value="0.0", description="seconds of the recording to leave out"
        ),
        DeclareLaunchArgument(
            "delay_s",
            default_value="8.0",
            description="seconds until it plays, in which the node and the viewer start",
        ),
        DeclareLaunchArgument(
            "viewer",
            default_value="none",
            choices=["none", "rviz", "foxglove"],
            description="rviz: RViz2 with config/fusion.rviz; foxglove: foxglove_bridge for "
            "config/foxglove_layout.json",
        ),
    ]
    fusion = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(share, "launch", "fusion.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    before = [OpaqueFunction(function=check), OpaqueFunction(function=player)]
    # The viewer last: its topics are arguments of fusion.launch.py.
    return LaunchDescription([*arguments, *before, fusion, OpaqueFunction(function=viewer)])
