"""Footage of one's own becomes a recording that the node and fuse-bag take as it is."""

import cv2
import numpy as np
import pytest
from camera_models import simple_calibration
from recordings import textures

from fusionproxy_ros.bags.make_bag import START_NS, make_bag, write_pairs
from fusionproxy_ros.bags.recording import Recording
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.core import image_messages
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.geometry.camera_info import read_camera_info
from fusionproxy_ros.geometry.static_transforms import StaticTransforms


def write_folders(folder, pairs):
    for kind in ("rgb", "thermal"):
        (folder / kind).mkdir(parents=True)
    for n, (rgb, thermal) in enumerate(pairs):
        cv2.imwrite(str(folder / "rgb" / f"{n:03d}.png"), rgb)
        cv2.imwrite(str(folder / "thermal" / f"{n:03d}.png"), thermal)
    return folder / "rgb", folder / "thermal"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("counts", [np.uint8, np.uint16])
def test_folders_become_streams_of_the_same_pixels_at_the_asked_rate(tmp_path, storage, counts):
    scale = 100 if counts is np.uint16 else 1
    pairs = [(rgb, thermal.astype(counts) * counts(scale)) for rgb, thermal in textures(5)]
    rgb, thermal = write_folders(tmp_path, pairs)
    args = ["--rgb", str(rgb), "--thermal", str(thermal), "--out", str(tmp_path / "bag"), "--hz", "20"]
    assert main(["make-bag", *args, "--storage", storage]) == 0
    with Recording(tmp_path / "bag") as recording:
        assert recording.storage == storage
        for name, read, index in (
            ("rgb", image_messages.read_rgb, 0),
            ("thermal", image_messages.read_thermal, 1),
        ):
            frames = [read(recording.decode(m)) for m in recording.messages([f"/{name}/image_raw"])]
            assert [frame.stamp_ns - START_NS for frame in frames] == [n * 50_000_000 for n in range(5)]
            for frame, pair in zip(frames, pairs, strict=True):
                np.testing.assert_array_equal(frame.pixels, pair[index])


def test_a_calibration_becomes_camera_info_and_tf_static_that_say_the_same(tmp_path):
    rig = simple_calibration()
    save_calibration(rig, tmp_path / "rig.yaml")
    rgb, thermal = write_folders(tmp_path, textures(2))
    args = ["--rgb", str(rgb), "--thermal", str(thermal), "--out", str(tmp_path / "bag")]
    assert main(["make-bag", *args, "--calibration", str(tmp_path / "rig.yaml")]) == 0
    with Recording(tmp_path / "bag") as recording:
        for name in ("rgb", "thermal"):
            infos = [recording.decode(m) for m in recording.messages([f"/{name}/camera_info"])]
            images = [recording.decode(m) for m in recording.messages([f"/{name}/image_raw"])]
            assert [info.header for info in infos] == [image.header for image in images]
            camera, truth = read_camera_info(infos[0]), getattr(rig, name)
            assert (camera.width_px, camera.height_px) == (truth.width_px, truth.height_px)
            assert camera.distortion_model == truth.distortion_model
            np.testing.assert_allclose(camera.k, truth.k)
            np.testing.assert_allclose(camera.d, truth.d)
        transforms = StaticTransforms()
        (static,) = recording.messages(["/tf_static"])
        transforms.add(recording.decode(static))
        rotation, translation_m = transforms.lookup("rgb_optical_frame", "thermal_optical_frame")
        np.testing.assert_allclose(rotation, rig.rotation, atol=1e-9)
        np.testing.assert_allclose(translation_m, rig.translation_m, atol=1e-9)
        assert static.topic.qos[0].durability.name == "TRANSIENT_LOCAL"


def test_a_pair_of_videos_becomes_one_message_per_frame(tmp_path, shared_data):
    clip = [shared_data / "video" / f"1230_1202_{kind}.mp4" for kind in ("rgb", "thermal")]
    count = int(cv2.VideoCapture(str(clip[0])).get(cv2.CAP_PROP_FRAME_COUNT))
    assert make_bag(*clip, tmp_path / "bag") == count
    with Recording(tmp_path / "bag") as recording:
        assert {t.count for t in recording.topics.values()} == {count}
        assert (recording.end_ns - recording.start_ns) / 1e9 == pytest.approx((count - 1) / 22, rel=0.05)


def test_footage_that_does_not_fit_together_is_refused_by_name(tmp_path):
    rgb, thermal = write_folders(tmp_path, textures(2))
    (thermal / "001.png").unlink()
    with pytest.raises(
        BagError, match=r"must share file names: .*001.png: no picture of that name in .*thermal"
    ):
        make_bag(rgb, thermal, tmp_path / "bag")
    with pytest.raises(BagError, match="two folders or two videos"):
        make_bag(rgb, thermal / "000.png", tmp_path / "bag")
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(BagError, match=r"x.mp4: not a readable video"):
        make_bag(tmp_path / "x.mp4", tmp_path / "x.mp4", tmp_path / "bag")
    with pytest.raises(BagError, match="no pictures"):
        write_pairs([], tmp_path / "empty", 30.0)
