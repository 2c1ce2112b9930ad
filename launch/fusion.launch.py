"""Start the fusion node: ros2 launch fusionproxy_ros fusion.launch.py rgb:=/front/image_raw thermal:=/flir/image_raw"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

# launch argument -> (topic of the node, what it carries)
TOPICS = {
    "rgb": ("rgb/image_raw", "RGB image in"),
    "rgb_info": ("rgb/camera_info", "RGB camera_info in"),
    "thermal": ("thermal/image_raw", "thermal image in"),
    "thermal_info": ("thermal/camera_info", "thermal camera_info in"),
    "depth": ("depth/image", "depth of the RGB pixels in, for registration.mode depth"),
    "fused": ("fused/image", "fused image out: give it to your detector"),
    "fused_info": ("fused/camera_info", "camera_info of the fused image out"),
    "status": ("fused/status", "per-frame truth out (FusionStatus)"),
}


def start_node(context):
    """The node; with `cameras`, each topic is remapped for each of them, below its name."""
    names = [name.strip() for name in LaunchConfiguration("cameras").perform(context).split(",")]
    topics = {
        topic: LaunchConfiguration(argument).perform(context) for argument, (topic, _) in TOPICS.items()
    }
    if names != [""] and (absolute := [new for new in topics.values() if new.startswith("/")]):
        raise ValueError(f"{absolute[0]} would be one topic for all of {names}: write it without the first /")
    return [
        Node(
            package="fusionproxy_ros",
            executable="fusion_node",
            name="fusion",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                LaunchConfiguration("params_file"),
                {"use_sim_time": LaunchConfiguration("use_sim_time")},
                *([{"cameras": names}] if names != [""] else []),
            ],
            remappings=[
                (f"{name}/{topic}".lstrip("/"), f"{name}/{new}" if name else new)
                for name in names
                for topic, new in topics.items()
            ],
            output="screen",
            respawn=LaunchConfiguration("respawn"),
            respawn_delay=1.0,
        )
    ]


def generate_launch_description():
    share = get_package_share_directory("fusionproxy_ros")
    profile = "FASTRTPS" if os.environ.get("ROS_DISTRO") == "jazzy" else "FASTDDS"
    profile += "_DEFAULT_PROFILES_FILE"
    arguments = [
        DeclareLaunchArgument(
            "namespace", default_value="", description="namespace of the node and its topics"
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=os.path.join(share, "config", "fusion.yaml"),
            description="YAML with every parameter; the installed fusion.yaml explains each",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=EnvironmentVariable(
                profile, default_value=os.path.join(share, "config", "fastdds_large_images.xml")
            ),
            description="Fast DDS XML profile; the default holds large images, give it to your camera driver too",
        ),
        DeclareLaunchArgument(
            "cameras",
            default_value="",
            description="camera pairs of this node, as in front,rear: each topic below is then below each name",
        ),
        DeclareLaunchArgument("respawn", default_value="true", description="start the node again if it dies"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="take time from /clock"),
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value=topic, description=text)
        for name, (topic, text) in TOPICS.items()
    ]
    profile_for_node = SetEnvironmentVariable(profile, LaunchConfiguration("fastdds_profile"))
    return LaunchDescription([*arguments, profile_for_node, OpaqueFunction(function=start_node)])
