"""Calibration files: what is written comes back exactly, and what is wrong with a file is named."""

import numpy as np
import pytest
import yaml
from geometry import calibrations, simple_calibration
from hypothesis import given, settings

from fusionproxy_ros.calibration import load_calibration, load_homography, save_calibration
from fusionproxy_ros.frames import RegistrationError


@settings(max_examples=30, deadline=None)
@given(calibrations())
def test_calibration_file_round_trip_is_exact(tmp_path_factory, calibration):
    path = tmp_path_factory.mktemp("calibration") / "calibration.yaml"
    save_calibration(calibration, path)
    loaded = load_calibration(path)
    np.testing.assert_array_equal(loaded.rotation, calibration.rotation)
    np.testing.assert_array_equal(loaded.translation_m, calibration.translation_m)
    for a, b in ((loaded.rgb, calibration.rgb), (loaded.thermal, calibration.thermal)):
        assert (a.width_px, a.height_px, a.distortion_model) == (b.width_px, b.height_px, b.distortion_model)
        np.testing.assert_array_equal(a.k, b.k)
        np.testing.assert_array_equal(a.d, b.d)


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
