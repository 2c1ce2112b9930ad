"""Calibration files: what is written comes back exactly, and what is wrong with a file is named."""

import numpy as np
import pytest
import yaml
from camera_models import RGB_PX, calibrations, cameras, rotation_matrix, simple_calibration
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.calibration_files import (
    load_calibration,
    load_camera,
    load_homography,
    save_calibration,
)
from fusionproxy_ros.geometry.checks import check_calibration

# The layout of camera_calibration_parsers/src/parse_yml.cpp, written by hand.
ROS_CAMERA = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [1168.68, 0.0, 295.015, 0.0, 1169.01, 252.247, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-1.04482, 1.59252, -0.0196308, 0.0287906, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [1168.68, 0.0, 295.015, 0.0, 0.0, 1169.01, 252.247, 0.0, 0.0, 0.0, 1.0, 0.0]
"""

# As kalibr_calibrate_cameras writes it. The thermal camera comes first and sits 0.1 m to the right of the RGB
# camera, turned by 90 degrees about the viewing axis: what is above RGB's centre is to the right of thermal's.
KALIBR = """\
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.3, 0.07, 0.0009, 1.0e-05]
  distortion_model: radtan
  intrinsics: [461.6, 460.2, 318.7, 246.0]
  resolution: [640, 512]
  rostopic: /boson/image_raw
cam1:
  T_cn_cnm1:
  - [0.0, 1.0, 0.0, 0.1]
  - [-1.0, 0.0, 0.0, 0.0]
  - [0.0, 0.0, 1.0, 0.0]
  - [0.0, 0.0, 0.0, 1.0]
  cam_overlaps: [0]
  camera_model: pinhole
  distortion_coeffs: [0.01, 0.02, 0.03, 0.04]
  distortion_model: equidistant
  intrinsics: [900.5, 901.5, 959.5, 539.5]
  resolution: [1920, 1080]
  rostopic: /rgb/image_raw
"""


def kalibr_file(tmp_path, **changes):
    """A camchain with keys of a camera changed; None removes one: kalibr_file(p, cam0={"rostopic": "/t"})."""
    document = yaml.safe_load(KALIBR)
    for name, keys in changes.items():
        camera = document.get(name, {}) | keys
        document[name] = {key: value for key, value in camera.items() if value is not None}
    path = tmp_path / "camchain.yaml"
    path.write_text(yaml.safe_dump(document, default_flow_style=None))
    return path


def assert_same_camera(a, b):
    assert (a.width_px, a.height_px, a.distortion_model) == (b.width_px, b.height_px, b.distortion_model)
    np.testing.assert_array_equal(a.k, b.k)
    np.testing.assert_array_equal(a.d, b.d)


@settings(max_examples=30, deadline=None)
@given(calibrations())
def test_calibration_file_round_trip_is_exact(tmp_path_factory, calibration):
    path = tmp_path_factory.mktemp("calibration") / "calibration.yaml"
    save_calibration(calibration, path)
    loaded = load_calibration(path)
    np.testing.assert_array_equal(loaded.rotation, calibration.rotation)
    np.testing.assert_array_equal(loaded.translation_m, calibration.translation_m)
    assert_same_camera(loaded.rgb, calibration.rgb)
    assert_same_camera(loaded.thermal, calibration.thermal)


def test_calibration_file_has_the_layout_of_ros(tmp_path):
    path = tmp_path / "calibration.yaml"
    save_calibration(simple_calibration(d=np.array([0.1, 0, 0, 0])), path)
    document = yaml.safe_load(path.read_text())
    assert list(document) == ["rgb", "thermal", "extrinsics"]
    assert document["thermal"]["image_width"] == 160
    assert document["thermal"]["distortion_coefficients"] == {"rows": 1, "cols": 4, "data": [0.1, 0, 0, 0]}
    assert (
        document["rgb"]["camera_matrix"]["rows"] == 3 and len(document["rgb"]["camera_matrix"]["data"]) == 9
    )


def test_other_keys_of_a_calibration_file_are_ignored(tmp_path):
    path = tmp_path / "calibration.yaml"
    save_calibration(simple_calibration(), path)
    document = yaml.safe_load(path.read_text())
    document["rms_px"] = 0.4
    document["rgb"]["views"] = ["a.png"]
    path.write_text(yaml.safe_dump(document))
    assert_same_camera(load_calibration(path).rgb, simple_calibration().rgb)


def ros_yaml(camera):
    """What camera_calibration writes of a camera."""

    def matrix(values):
        return {"rows": 1, "cols": values.size, "data": values.ravel().tolist()}

    document = {"image_width": camera.width_px, "image_height": camera.height_px, "camera_name": "left"}
    document |= {"camera_matrix": matrix(camera.k), "distortion_model": camera.distortion_model}
    return yaml.safe_dump(document | {"distortion_coefficients": matrix(camera.d)})


def test_a_calibration_file_may_name_ros_camera_files_beside_it(tmp_path):
    calibration = simple_calibration(d=np.array([0.1, 0, 0, 0]))
    save_calibration(calibration, tmp_path / "calibration.yaml")
    document = yaml.safe_load((tmp_path / "calibration.yaml").read_text())
    document["thermal"] = "cameras/boson.yaml"
    (tmp_path / "calibration.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(RegistrationError, match=r"calibration\.yaml: .*boson\.yaml cannot be read"):
        load_calibration(tmp_path / "calibration.yaml")
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "boson.yaml").write_text(ros_yaml(calibration.thermal))
    loaded = load_calibration(tmp_path / "calibration.yaml")
    assert_same_camera(loaded.rgb, calibration.rgb)
    assert_same_camera(loaded.thermal, calibration.thermal)


@pytest.mark.parametrize(
    "key",
    [
        "rgb",
        "thermal.image_width",
        "thermal.camera_matrix",
        "rgb.camera_matrix.data",
        "rgb.distortion_model",
        "thermal.distortion_coefficients.data",
        "extrinsics.rotation",
        "extrinsics.translation_m",
    ],
)
def test_missing_key_of_a_calibration_file_is_named(tmp_path, key):
    path = tmp_path / "calibration.yaml"
    save_calibration(simple_calibration(), path)
    document = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    section = document
    for parent in parents:
        section = section[parent]
    del section[last]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RegistrationError, match=rf"calibration.yaml: key {key}[\w.]* is missing: add it"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("rgb: [", "cannot be read as YAML"),
        ("just words", "no YAML mapping"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_file_that_is_no_calibration_is_refused(tmp_path, text, cause):
    path = tmp_path / "calibration.yaml"
    path.write_text(text)
    with pytest.raises(RegistrationError, match=f"calibration.yaml.*{cause}"):
        load_calibration(path)
    with pytest.raises(RegistrationError, match=r"absent\.yaml cannot be read"):
        load_calibration(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("value", "cause"),
    [("words", "not numeric"), ([1.0, 2.0], r"shape \(2,\): give \(9,\)"), ([[1], 2], "not numeric")],
)
def test_malformed_numbers_of_a_calibration_file_are_named(tmp_path, value, cause):
    path = tmp_path / "calibration.yaml"
    save_calibration(simple_calibration(), path)
    document = yaml.safe_load(path.read_text())
    document["extrinsics"]["rotation"] = value
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RegistrationError, match=rf"key extrinsics.rotation.*{cause}"):
        load_calibration(path)


# --- ROS camera files


@settings(max_examples=30, deadline=None)
@given(cameras(RGB_PX))
def test_a_ros_camera_file_is_read_to_the_bit(tmp_path_factory, camera):
    path = tmp_path_factory.mktemp("camera") / "camera.yaml"
    path.write_text(ros_yaml(camera))
    assert_same_camera(load_camera(path), camera)


def test_camera_file_has_the_layout_of_ros(tmp_path):
    (tmp_path / "ros.yaml").write_text(ROS_CAMERA)
    camera = load_camera(tmp_path / "ros.yaml")
    assert (camera.width_px, camera.height_px, camera.distortion_model) == (640, 480, "plumb_bob")
    np.testing.assert_array_equal(camera.k, [[1168.68, 0, 295.015], [0, 1169.01, 252.247], [0, 0, 1]])
    np.testing.assert_array_equal(camera.d, [-1.04482, 1.59252, -0.0196308, 0.0287906, 0])


def test_numbers_as_yaml_cpp_writes_them_are_read(tmp_path):
    """It writes 0.00001 as 1e-05, which is a number in YAML 1.2 only, and to PyYAML a word."""
    (tmp_path / "ros.yaml").write_text(ROS_CAMERA.replace("0.0287906, 0.0]", "1e-05, 0]") + "binning_x: 0\n")
    assert load_camera(tmp_path / "ros.yaml").d[3] == 1e-05


def test_malformed_camera_file_is_named(tmp_path):
    (tmp_path / "ros.yaml").write_text(ROS_CAMERA.replace("image_width: 640", "image_width: wide"))
    with pytest.raises(
        RegistrationError, match=r"ros\.yaml: keys image_width and image_height must be whole"
    ):
        load_camera(tmp_path / "ros.yaml")


# --- Kalibr's camchain


def test_kalibr_file_is_read_with_its_cameras_in_either_order(tmp_path):
    (tmp_path / "camchain.yaml").write_text(KALIBR)
    loaded = load_calibration(tmp_path / "camchain.yaml", "/rgb/image_raw", "/boson/image_raw")
    check_calibration(loaded)
    thermal = loaded.thermal
    assert (thermal.width_px, thermal.height_px, thermal.distortion_model) == (640, 512, "plumb_bob")
    np.testing.assert_array_equal(thermal.k, [[461.6, 0, 318.7], [0, 460.2, 246.0], [0, 0, 1]])
    np.testing.assert_array_equal(thermal.d, [-0.3, 0.07, 0.0009, 1e-05])
    assert (loaded.rgb.width_px, loaded.rgb.distortion_model) == (1920, "equidistant")
    # 1 m above RGB's viewing axis and 0.1 m left of thermal's; RGB's up is thermal's right, RGB's left thermal's up.
    seen = loaded.rotation @ [0.0, -1.0, 5.0] + loaded.translation_m
    np.testing.assert_allclose(seen, [1.0, -0.1, 5.0], atol=1e-12)

    back = load_calibration(tmp_path / "camchain.yaml", "/boson/image_raw", "/rgb/image_raw")
    np.testing.assert_allclose(back.rotation @ seen + back.translation_m, [0.0, -1.0, 5.0], atol=1e-12)
    assert back.rgb.width_px == 640 and back.thermal.width_px == 1920


def rigid(angles, translation_m):
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation_matrix(*angles), translation_m
    return motion


poses = st.builds(rigid, *[st.tuples(*[st.floats(low, -low)] * 3) for low in (-1.0, -0.5)])


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(poses, min_size=4, max_size=4), st.permutations(range(4)))
def test_kalibr_chain_composes(tmp_path_factory, from_world, order):
    """Cameras somewhere in a world: a point of it must be where each of them sees it."""
    rgb, thermal, *others = order
    cameras = {n: {"rostopic": f"/other{n}", "camera_model": "omni"} for n in others}
    for n, topic in ((rgb, "/rgb/image_raw"), (thermal, "/thermal/image_raw")):
        cameras[n] = yaml.safe_load(KALIBR)["cam0"] | {"rostopic": topic}
    for n in range(1, 4):
        cameras[n]["T_cn_cnm1"] = (from_world[n] @ np.linalg.inv(from_world[n - 1])).tolist()
    path = tmp_path_factory.mktemp("kalibr") / "camchain.yaml"
    path.write_text(yaml.safe_dump({f"cam{n}": camera for n, camera in cameras.items()}))

    loaded = load_calibration(path)

    point_rgb, point_thermal = (from_world[n] @ [0.3, -0.7, 4.0, 1.0] for n in (rgb, thermal))
    np.testing.assert_allclose(
        loaded.rotation @ point_rgb[:3] + loaded.translation_m, point_thermal[:3], atol=1e-9
    )
    check_calibration(loaded)


@pytest.mark.parametrize("first", ["rgb", "thermal"])
def test_kalibr_motion_of_few_digits_is_good_enough(tmp_path, first):
    motion = np.round(rigid((0.02, -0.01, 0.03), (0.11, 0.002, -0.003)), 4).tolist()
    path = kalibr_file(tmp_path, cam1={"T_cn_cnm1": motion})
    topics = {"rgb": ("boson/image_raw", "rgb/image_raw"), "thermal": ("rgb/image_raw", "boson/image_raw")}
    check_calibration(load_calibration(path, *topics[first]))


@pytest.mark.parametrize(
    ("recorded", "subscribed"),
    [
        ("/boson/image_raw", "boson/image_raw"),
        ("boson/image_raw", "/boson/image_raw"),
        ("/boson/image_raw/compressed", "/boson/image_raw"),
        ("/boson/image_raw", "/boson/image_raw/compressed"),
    ],
)
def test_kalibr_topic_matches_however_the_image_travels(tmp_path, recorded, subscribed):
    path = kalibr_file(tmp_path, cam0={"rostopic": recorded})
    assert load_calibration(path, "/rgb/image_raw", subscribed).thermal.width_px == 640


def test_kalibr_lens_without_distortion_is_read(tmp_path):
    path = kalibr_file(tmp_path, cam0={"distortion_model": "none", "distortion_coeffs": []})
    loaded = load_calibration(path, thermal_topic="/boson/image_raw")
    assert loaded.thermal.distortion_model == "plumb_bob" and not loaded.thermal.d.size


FLIPPED = np.diag([-1.0, 1.0, 1.0, 1.0]).tolist()
STRETCHED = np.diag([1.0, 1.0, 1.1, 1.0]).tolist()


@pytest.mark.parametrize(
    ("changes", "cause", "cure"),
    [
        (
            {"cam0": {"rostopic": "/lepton/image"}},
            r"none of the cameras .*\(cam0 /lepton/image, cam1 /rgb/image_raw\) .*/boson/image_raw",
            "remap the node's topic to the camera's, or change its rostopic",
        ),
        ({"cam2": {"rostopic": "/boson/image_raw"}}, "2 of the cameras", "exactly one should"),
        ({"cam0": {"rostopic": None}}, "key cam0.rostopic is missing", "add it"),
        ({"cam0": {"camera_model": "omni"}}, "cam0 has camera_model omni", "--models pinhole-radtan"),
        ({"cam1": {"camera_model": "ds"}}, "cam1 has camera_model ds", "--models pinhole-radtan"),
        ({"cam0": {"distortion_model": "fov"}}, "pinhole with distortion_model fov", "pinhole-equi"),
        ({"cam0": {"distortion_coeffs": [0.1]}}, "key cam0.distortion_coeffs", r"give \(4,\)"),
        ({"cam0": {"intrinsics": [1.0, 2.0]}}, "key cam0.intrinsics", r"give \(4,\)"),
        ({"cam1": {"T_cn_cnm1": None}}, "key cam1.T_cn_cnm1 is missing", "add it"),
        ({"cam1": {"T_cn_cnm1": [[1.0, 0.0], [0.0, 1.0]]}}, "key cam1.T_cn_cnm1", r"give \(4, 4\)"),
        ({"cam1": {"T_cn_cnm1": STRETCHED}}, "cam1.T_cn_cnm1 is not orthonormal", "at least 5 digits"),
        ({"cam1": {"T_cn_cnm1": FLIPPED}}, "cam1.T_cn_cnm1 is a reflection", "use optical frames"),
        (
            {"cam1": {"T_cn_cnm1": np.ones((4, 4)).tolist()}},
            "cam1.T_cn_cnm1 is not orthonormal",
            "all nine numbers",
        ),
        (
            {"cam1": {"T_cn_cnm1": np.diag([1.0, 1.0, 1.0, 2.0]).tolist()}},
            r"cam1.T_cn_cnm1 has the last row \[0.0, 0.0, 0.0, 2.0\]",
            r"give \[0, 0, 0, 1\]",
        ),
    ],
)
def test_what_is_wrong_with_a_kalibr_file_is_named(tmp_path, changes, cause, cure):
    with pytest.raises(RegistrationError, match=rf"camchain\.yaml: .*{cause}.*{cure}"):
        load_calibration(kalibr_file(tmp_path, **changes), "/rgb/image_raw", "/boson/image_raw")


def test_singular_k_of_a_file_is_named(tmp_path):
    path = kalibr_file(tmp_path, cam0={"intrinsics": [0.0, 460.2, 318.7, 246.0]})
    with pytest.raises(RegistrationError, match=r"K\[0\]==0 \(uncalibrated\): publish a calibrated"):
        check_calibration(load_calibration(path, "/rgb/image_raw", "/boson/image_raw"))


# --- homographies


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.yaml", "homography: [1, 2, 3, 4, 5, 6, 7, 8, 9]"),
        ("h.txt", "1 2 3\n4 5 6\n7 8 9\n"),
        ("h.csv", "# from thermal to RGB\n1, 2, 3\n4, 5, 6\n7, 8, 9\n"),
    ],
)
def test_homography_is_read_from_yaml_and_text(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(load_homography(tmp_path / name), np.arange(1.0, 10).reshape(3, 3))


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("h.yaml", "matrix: [1]", "key homography is missing: add it"),
        ("h.yaml", "homography: [1, 2]", r"give \(9,\)"),
        ("h.txt", "1 2 3", "holds 3 numbers: write the nine"),
        ("h.txt", "one", "cannot be read as nine numbers"),
    ],
)
def test_malformed_homography_file_is_refused(tmp_path, name, text, cause):
    (tmp_path / name).write_text(text)
    with pytest.raises(RegistrationError, match=f"{name}.*{cause}"):
        load_homography(tmp_path / name)
