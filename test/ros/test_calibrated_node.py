"""The live node registers by depth, tells and corrects a drift, and passes RGB whatever is wrong with a calibration."""

import importlib.util
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from camera_models import outlines, street
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fusionproxy_ros.msg import FusionStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_messages import fill_image, read_pixels, stamp_to_ns
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.trials.harness import extrinsic_parameters, wait_until
from fusionproxy_ros.trials.night_road import default_calibration

RGB_PX, THERMAL_PX = (320, 240), (160, 128)
STILL = {"frozen_after_s": 0.0}  # the same thermal image again and again is what these tests want
CALIBRATION = default_calibration(RGB_PX, THERMAL_PX)


def frames(seed=0):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 255, (*RGB_PX[::-1], 3), np.uint8)
    return rgb, rng.integers(0, 255, THERMAL_PX[::-1], np.uint8)


def ask(cameras, down, stamp_ns, rgb, thermal, before=lambda stamp_ns: None):
    """The status of one pair."""
    before(stamp_ns)
    cameras.publish("thermal", stamp_ns, thermal)
    cameras.publish("rgb", stamp_ns, rgb)
    answered = lambda: down.statuses and stamp_to_ns(down.statuses[-1].header.stamp) == stamp_ns  # noqa: E731
    wait_until(answered, 10, "answer")
    return down.statuses[-1]


def ask_until(wanted, cameras, down, rgb, thermal, before=lambda stamp_ns: None):
    """Ask, stamp after stamp, until the status is as wanted."""
    for second in range(1, 60):
        status = ask(cameras, down, second * NS_PER_S, rgb, thermal, before)
        if wanted(status):
            return status
        time.sleep(0.1)
    raise AssertionError(f"the last status was {status}")


def fused(status):
    return status.mode == FusionStatus.FUSED


def test_depth_mode_takes_each_pixel_at_its_depth_and_the_plane_where_no_depth_image_is_near(graph):
    rgb, thermal = frames()
    graph.fusion(
        extrinsic_parameters(CALIBRATION)
        | {"registration.mode": "depth", "deadline_s": 1.0, "debug_images": True}
        | STILL
    )
    down, cameras = graph.downstream(), graph.cameras(CALIBRATION)
    publisher = graph.node.create_publisher(Image, "depth/image", 10)
    wait_until(publisher.get_subscription_count, 10, "the node to subscribe to depth")
    on_plane = ask_until(fused, cameras, down, rgb, thermal)
    assert "no depth image within registration.depth_tolerance_s" in on_plane.reason
    assert on_plane.parallax_error_px == pytest.approx(0.784 * 320 * 0.1 * (1 / 3 - 1 / 20), rel=0.05)

    depth_mm = np.full(RGB_PX[::-1], 4000, np.uint16)
    depth_mm[:, 160:] = 30_000

    def publish_depth(stamp_ns):
        header = Header(frame_id="rgb_optical_frame")
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns - 30_000_000, NS_PER_S)
        publisher.publish(fill_image(Image(), header, depth_mm, "16UC1"))
        time.sleep(0.3)  # another topic: nothing orders it before the pair

    status = ask(cameras, down, 100 * NS_PER_S, rgb, thermal, publish_depth)
    assert fused(status) and status.reason == "" and status.parallax_error_px == 0
    wait_until(lambda: 100 * NS_PER_S in down.registered, 10, "registered thermal")
    expected = by_depth(CALIBRATION, 20.0).register(thermal, RGB_PX, (depth_mm / 1000).astype(np.float32))
    np.testing.assert_array_equal(read_pixels(down.registered[100 * NS_PER_S]), expected.pixels)
    assert status.registration_valid_fraction == pytest.approx(expected.valid_fraction)


def kalibr(path, topics):
    camera = {"camera_model": "pinhole", "distortion_model": "none", "distortion_coeffs": []}
    camera |= {"intrinsics": [300.0, 300.0, 160.0, 120.0], "resolution": list(RGB_PX)}
    cameras = {f"cam{i}": camera | {"rostopic": topic} for i, topic in enumerate(topics)}
    cameras["cam1"]["T_cn_cnm1"] = np.eye(4).tolist()
    path.write_text(yaml.safe_dump(cameras))


BLANK = replace(CALIBRATION, thermal=replace(CALIBRATION.thermal, k=np.zeros((3, 3))))
WAITING_FOR_TF = (  # without tf2_ros TF can never arrive, and what to install is named
    ("waiting for TF from rgb_optical_frame to thermal_optical_frame", "start robot_state_publisher")
    if importlib.util.find_spec("tf2_ros")
    else ("tf2_ros cannot be imported", "apt install ros-$ROS_DISTRO-tf2-ros-py")
)
SQUEEZED = {"registration.rotation": [1.0, 0.0, 0.0, 0.0, 1.1, 0.0, 0.0, 0.0, 1.0]}


@pytest.mark.parametrize(
    ("published", "parameters", "cause", "cure"),
    [
        (BLANK, {}, "thermal/camera_info has K[0]==0", "publish a calibrated CameraInfo"),
        (CALIBRATION, SQUEEZED, "rotation is not orthonormal", "give all nine numbers"),
        (CALIBRATION, {"registration.calibration_file": "kalibr"}, "/front/rgb", "rostopic"),
        (CALIBRATION, {"registration.extrinsics_source": "tf"}, *WAITING_FOR_TF),
        (
            default_calibration((640, 400), THERMAL_PX),
            {},
            "rgb/camera_info is for 640x400 px but the rgb image is 320x240",
            "publish the CameraInfo",
        ),
    ],
    ids=["singular K", "non-orthogonal R", "Kalibr file with other topics", "no TF", "mixed sizes"],
)
def test_whatever_is_wrong_with_the_calibration_rgb_passes_and_the_cause_and_cure_are_named(
    graph, tmp_path, published, parameters, cause, cure
):
    rgb, thermal = frames()
    if "registration.calibration_file" in parameters:
        kalibr(tmp_path / "camchain.yaml", ("/front/rgb", "/front/thermal"))
        parameters = {"registration.calibration_file": str(tmp_path / "camchain.yaml")}
    graph.fusion(extrinsic_parameters(CALIBRATION) | parameters | STILL)
    down, cameras = graph.downstream(), graph.cameras(published)
    status = ask_until(lambda s: cause in s.reason, cameras, down, rgb, thermal)
    assert cure in status.reason and status.mode == FusionStatus.PASSTHROUGH
    wait_until(lambda: len(down.images) == len(down.statuses), 5, "an image for every status")
    np.testing.assert_array_equal(read_pixels(down.images[-1][1]), rgb)


def test_a_kalibr_file_with_the_nodes_topics_needs_no_camera_info(graph, tmp_path):
    rgb, thermal = frames()
    kalibr(tmp_path / "camchain.yaml", ("/rgb/image_raw", "/thermal/image_raw"))
    path = str(tmp_path / "camchain.yaml")
    graph.fusion({"registration.mode": "extrinsic", "registration.calibration_file": path} | STILL)
    down, cameras = graph.downstream(), graph.cameras()
    thermal = np.zeros(RGB_PX[::-1], np.uint8)
    assert ask_until(fused, cameras, down, rgb, thermal).registration_valid_fraction == 1.0


def test_a_drift_of_5_px_is_reported_within_10_s_and_with_refinement_removed(graph):
    graph.fusion({"registration.misalignment_warn_px": 3.0, "max_latency_s": 5.0} | STILL)
    down, cameras = graph.downstream(keep_pixels=False), graph.cameras()
    warnings = []

    def on_diagnostics(array):
        warnings.extend(s.message for s in array.status if s.level == DiagnosticStatus.WARN)

    graph.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    pictures = {shift: tuple(street((640, 480), shift)) for shift in ((0, 0), (4, -3))}

    def play(shift_px, seconds, until=lambda status: False):
        """Seconds played at 30 Hz until a status is as wanted."""
        luma, thermal = pictures[shift_px]
        begin = time.monotonic()
        for index in range(round(seconds * 30)):
            time.sleep(max(0.0, begin + index / 30 - time.monotonic()))
            stamp_ns = time.time_ns()
            cameras.publish("thermal", stamp_ns, thermal)
            cameras.publish("rgb", stamp_ns, np.dstack([luma] * 3))
            if down.statuses and until(down.statuses[-1]):
                break
        return time.monotonic() - begin

    def shift(status):
        return np.array([status.misalignment_x_px, status.misalignment_y_px])

    def corrected(status):
        return np.array([status.correction_x_px, status.correction_y_px])

    assert play((0, 0), 10, until=lambda s: np.linalg.norm(shift(s)) < 1) < 10
    assert play((4, -3), 10, until=lambda s: np.linalg.norm(shift(s) - (4, -3)) < 2) < 10
    assert not corrected(down.statuses[-1]).any()
    play((4, -3), 1.5)
    assert any("px off RGB: calibrate again" in message for message in warnings)

    graph.set_parameter("registration.refine_max_px", 8.0)
    play((4, -3), 25, until=lambda s: np.linalg.norm(corrected(s) - (4, -3)) < 2)
    assert np.linalg.norm(corrected(down.statuses[-1]) - (4, -3)) < 2
    # What is left is estimated against the corrected picture, and small.
    play((4, -3), 10, until=lambda s: np.linalg.norm(shift(s)) < 2)
    assert np.linalg.norm(shift(down.statuses[-1])) < 2


def test_thermal_that_lies_beside_rgb_is_shown_with_less_contrast_and_that_is_told(graph):
    graph.fusion(STILL)
    down, diagnoses = graph.downstream(), []
    graph.node.create_subscription(DiagnosticArray, "/diagnostics", diagnoses.append, 10)
    cameras = graph.cameras()
    rgb = np.dstack([outlines(30, shape=RGB_PX[::-1])] * 3)
    thermal = outlines(80, shape=RGB_PX[::-1])
    beside = np.roll(thermal, (24, 32), (0, 1))
    assert ask_until(fused, cameras, down, rgb, thermal).reason == ""
    restrained = ask_until(lambda status: status.reason, cameras, down, rgb, beside)
    assert fused(restrained) and "edges lie beside RGB's" in restrained.reason

    def told():
        statuses = [one for array in diagnoses for one in array.status if one.name == "fusionproxy: fusion"]
        values = [
            {pair.key: pair.value for pair in one.values}.get("thermal_contrast", "1") for one in statuses
        ]
        return any(
            float(value) < 0.9 and one.level == DiagnosticStatus.WARN and "beside RGB's" in one.message
            for one, value in zip(statuses, values, strict=True)
        )

    wait_until(told, 5, "the warning")
