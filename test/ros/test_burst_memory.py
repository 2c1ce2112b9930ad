"""Images that waited in a queue leave no memory behind, over real DDS with the shipped profile."""

import subprocess
import sys

BURST = """
import re, sys, time
from pathlib import Path
import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from fusionproxy_ros.core.allocator import give_back_freed_memory, keep_freed_memory
from fusionproxy_ros.core.image_messages import fill_image
from fusionproxy_ros.ros.dds import use_large_image_profile
from fusionproxy_ros.ros.subscriptions import QUEUE

def own_mb():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def pass_on(count):
    for _ in range(count):
        camera.publish(image)
        assert camera.wait_for_all_acked(Duration(seconds=20))  # now it waits in the other's queue
    waiting_mb = own_mb()
    wanted, deadline_s = len(got) + count, time.monotonic() + 60
    while len(got) < wanted and time.monotonic() < deadline_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    give_back_freed_memory()
    return waiting_mb

use_large_image_profile()
keep_freed_memory()
rclpy.init()
node, got = rclpy.create_node("burst"), []
camera = node.create_publisher(Image, "burst/image", QoSProfile(depth=2))
node.create_subscription(Image, "burst/image", lambda msg: got.append(0), QoSProfile(depth=QUEUE))
while not camera.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.1)
image = fill_image(Image(), Header(), np.zeros((720, 1280, 3), np.uint8), "rgb8")
for _ in range(3):
    pass_on(1)
before_mb = own_mb()
waiting_mb = pass_on(QUEUE)
print(len(got), waiting_mb - before_mb, own_mb() - before_mb)
"""


def test_a_burst_that_waited_in_a_queue_leaves_no_memory_behind():
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    received, waiting_mb, left_mb = (float(word) for word in done.stdout.split())
    assert received == 33
    assert waiting_mb > 60, "the burst never waited: this test shows nothing"
    assert left_mb < 10, (waiting_mb, left_mb)
