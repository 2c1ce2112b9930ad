"""The node as its own process over real DDS keeps its two promises."""

import subprocess
import sys
import time

import numpy as np
import pytest
from fusionproxy_ros.msg import FusionStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fusionproxy_ros.core.frames import NS_PER_S, Frame, Mode, Pair
from fusionproxy_ros.core.image_messages import fill_image, read_pixels, stamp_to_ns
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import extrinsic
from fusionproxy_ros.trials.demo import Footage, play
from fusionproxy_ros.trials.harness import extrinsic_parameters, wait_until
from fusionproxy_ros.trials.judge import judge_demo
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

SIZE = (320, 240)


def recording(seconds, thermal_hz=30):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    thermal = [
        rng.integers(28000, 31000, (120, 160), np.uint16) for _ in range(2)
    ]  # one alone would be frozen
    return Footage(
        rgb=[(t, rgb) for t in np.arange(0, seconds, 1 / 30)],
        thermal=[(t, thermal[i % 2]) for i, t in enumerate(np.arange(0.007, seconds, 1 / thermal_hz))],
        calibration=default_calibration(SIZE, (160, 120)),
    )


@pytest.mark.parametrize("thermal_hz", [30, 9])
def test_every_frame_is_answered_once_in_order_with_its_header_through_a_thermal_outage(graph, thermal_hz):
    footage = recording(4.0, thermal_hz)
    graph.fusion(extrinsic_parameters(footage.calibration) | {"max_latency_s": 5.0})
    down, cameras = graph.downstream(keep_pixels=False), graph.cameras(footage.calibration)
    start_ns = time.time_ns()
    sent = play(footage, cameras, (1.0, 3.0), start_ns)
    wait_until(lambda: len(down.statuses) >= len(sent), 5, "answers")
    back_ns = start_ns + round(min(t for t, _ in footage.thermal if t >= 3.0) * NS_PER_S)
    report = judge_demo(sent, down, back_ns)
    assert report["answered_once"] == report["rgb_frames"] == 120
    assert report["header_mismatches"] == report["out_of_order"] == 0
    assert report["recovery_frames"] <= 3
    outage = [s for s in down.statuses if start_ns + 1.2e9 < stamp_to_ns(s.header.stamp) < start_ns + 2.9e9]
    modes = [s.mode for s in outage]
    assert modes == sorted(modes) and set(modes) == {FusionStatus.HELD, FusionStatus.PASSTHROUGH}
    assert all(s.reason for s in outage)
    assert all(
        0.5 < s.registration_valid_fraction <= 1 for s in down.statuses if s.mode == FusionStatus.FUSED
    )
    last = down.statuses[-1]
    assert last.received == 120 == last.fused + last.held + last.passed and last.dropped == last.refused == 0


def test_a_passed_frame_is_the_cameras_own_to_the_last_bit(graph):
    graph.fusion()
    down, cameras = graph.downstream(), graph.cameras()
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    cameras.publish("rgb", 1_000_000_007, pixels)
    wait_until(lambda: down.images and down.statuses, 10, "answer")
    np.testing.assert_array_equal(read_pixels(down.images[0][1]), pixels)
    assert (
        down.statuses[0].mode == FusionStatus.PASSTHROUGH
        and down.statuses[0].reason == "no thermal frame received"
    )


def newest(down):
    """Stamps of the newest image and the newest status."""
    messages = [msg for _, msg in down.images[-1:]] + down.statuses[-1:]
    return [stamp_to_ns(msg.header.stamp) for msg in messages]


def test_the_live_node_gives_the_pixels_that_the_core_gives_offline(graph):
    calibration = default_calibration(SIZE, (160, 120))
    scene = NightRoad(calibration)
    rgb, thermal = scene.rgb(2.0), scene.thermal(2.0)
    graph.fusion(extrinsic_parameters(calibration) | {"deadline_s": 1.0, "frozen_after_s": 0.0})
    down, cameras = graph.downstream(), graph.cameras(calibration)
    stamp_ns, fused = 10**9, None
    while fused is None and stamp_ns < 100 * 10**9:  # the first frames find the calibration being built
        stamp_ns += 10**9
        cameras.publish("thermal", stamp_ns, thermal)
        cameras.publish("rgb", stamp_ns, rgb)
        wait_until(lambda ns=stamp_ns: newest(down) == [ns, ns], 10, "answer")
        fused = down.images[-1][1] if down.statuses[-1].mode == FusionStatus.FUSED else None
    pair = Pair(Frame(stamp_ns, "", rgb, "rgb8"), Frame(stamp_ns, "", thermal, "mono16"), Mode.FUSED)
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings())
    np.testing.assert_array_equal(read_pixels(fused), fuser.fuse(pair, extrinsic(calibration, 20.0)).pixels)


def test_topics_can_be_remapped(graph):
    graph.fusion(
        remappings={
            "rgb/image_raw": "front/image",
            "thermal/image_raw": "flir/image",
            "fused/image": "front/fused",
        }
    )
    down = graph.downstream(image_topic="front/fused")
    rgb = np.zeros((64, 64, 3), np.uint8)
    publishers = [graph.node.create_publisher(Image, topic, 10) for topic in ("front/image", "flir/image")]
    wait_until(lambda: all(p.get_subscription_count() for p in publishers), 30, "fusion node subscribing")
    for publisher, pixels in zip(publishers, (rgb, rgb[..., 0]), strict=True):
        publisher.publish(image(pixels))
    wait_until(lambda: down.images and down.statuses, 10, "answer on the remapped topic")
    assert down.statuses[0].mode == FusionStatus.FUSED


def image(pixels, stamp_ns=5_000_000_000, encoding=None):
    header = Header(frame_id="camera")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
    return fill_image(Image(), header, pixels, encoding or ("rgb8" if pixels.ndim == 3 else "mono8"))


def test_bad_rgb_is_refused_or_passed_with_the_reason_and_the_next_good_frame_is_fused(graph):
    graph.fusion()
    down = graph.downstream()
    rgb, thermal = (
        graph.node.create_publisher(Image, f"{name}/image_raw", 10) for name in ("rgb", "thermal")
    )
    wait_until(lambda: rgb.get_subscription_count() and thermal.get_subscription_count(), 30, "fusion node")
    picture = np.full((64, 64, 3), 90, np.uint8)
    truncated = image(picture, 10**9)
    truncated.data = truncated.data[:100]
    bayer = image(picture[..., 0].copy(), 2 * 10**9, "bayer_rggb8")
    unstamped = image(picture, 0)
    thermal.publish(image(picture, 3 * 10**9))  # colour where one channel belongs
    thermal.publish(image(picture[..., 0].copy(), 3 * 10**9))
    for msg in (truncated, bayer, unstamped, image(picture, 3 * 10**9)):
        rgb.publish(msg)
        time.sleep(0.2)
    wait_until(lambda: len(down.statuses) == 4 and len(down.images) == 3, 10, "four statuses")
    refused, passed, zero, good = down.statuses
    assert refused.mode == FusionStatus.REFUSED and "truncated: 100 of 12288 bytes" in refused.reason
    assert zero.mode == FusionStatus.PASSTHROUGH and "stamp is zero" in zero.reason
    assert good.mode == FusionStatus.FUSED and good.thermal_refused == 1 and good.refused == 1
    if passed.mode == FusionStatus.PASSTHROUGH:  # without cv_bridge
        assert "bayer_rggb8" in passed.reason
        assert down.images[0][1].encoding == "bayer_rggb8" and down.images[0][1].data == bayer.data


def test_extrinsic_mode_without_camera_info_passes_rgb_and_says_what_it_waits_for(graph):
    graph.fusion({"registration.mode": "extrinsic"})
    down, cameras = graph.downstream(), graph.cameras()
    picture = np.zeros((64, 64, 3), np.uint8)
    cameras.publish("thermal", 10**9, picture[..., 0].copy())
    cameras.publish("rgb", 10**9, picture)
    wait_until(lambda: down.statuses and down.images, 10, "answer")
    assert down.statuses[0].mode == FusionStatus.PASSTHROUGH
    assert down.statuses[0].reason.startswith("waiting for rgb/camera_info: publish it, or set registration.")


def test_where_the_status_message_was_not_generated_the_node_fuses_all_the_same(graph):
    code = "import sys; sys.modules['fusionproxy_ros.msg'] = None; from fusionproxy_ros.ros.process import main; main()"
    graph.processes.append(subprocess.Popen([sys.executable, "-c", code]))
    down, cameras = graph.downstream(), graph.cameras()
    picture = np.full((64, 64, 3), 90, np.uint8)
    cameras.publish("thermal", 10**9, picture[..., 0])
    cameras.publish("rgb", 10**9, picture)
    wait_until(lambda: down.images, 10, "answer")
    assert not down.statuses and graph.node.count_publishers("fused/status") == 0
