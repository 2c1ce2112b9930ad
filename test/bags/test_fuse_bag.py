"""A recording is fused as the live node would fuse it: every frame, the same bytes each time, whatever happens."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from camera_models import simple_calibration
from recordings import (
    IMAGE,
    PERIOD_NS,
    START_NS,
    STRING,
    TYPES,
    camera_stream,
    image,
    string,
    textures,
    write_bag,
    write_mcap,
)

from fusionproxy_ros.bags import writing
from fusionproxy_ros.bags.camera_topics import COMPRESSED
from fusionproxy_ros.bags.fuse import fuse_bag
from fusionproxy_ros.bags.make_bag import write_pairs
from fusionproxy_ros.bags.recording import Recording
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.geometry.depth import by_depth
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pairing.settings import SyncSettings
from fusionproxy_ros.pipeline import offline
from fusionproxy_ros.pipeline.settings import Settings, TopicSettings

MODES = ["FUSED", "HELD", "PASSTHROUGH", "REFUSED"]


def registered(**given):
    return Settings(registration=RegistrationSettings(**given))


@pytest.fixture
def bag(tmp_path):
    return write_bag(tmp_path / "bag", camera_stream(textures(8)))


def decoded(path, topic):
    with Recording(path) as recording:
        return [recording.decode(message) for message in recording.messages([topic])]


def pixels_of(msg):
    return np.asarray(msg.data).reshape(msg.height, msg.width, -1)


def by_hand(pairs, register=None, encoding="rgb8"):
    """What the fuser makes of pairs that were exposed together."""
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "cpu", 2)
    for n, (rgb, thermal) in enumerate(pairs):
        stamp_ns = START_NS + n * PERIOD_NS
        frames = Frame(stamp_ns, "", rgb, encoding), Frame(stamp_ns, "", thermal, "")
        yield fuser.fuse(Pair(*frames, Mode.FUSED), register or registration.identity()).pixels


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_frame_is_answered_once_with_its_header_and_the_fusers_own_pixels(tmp_path, bag, storage):
    summary = fuse_bag(bag, tmp_path / "out", storage=storage)
    assert summary.modes == {"FUSED": 8} and not summary.damage
    sources, fused = decoded(bag, "/rgb/image_raw"), decoded(tmp_path / "out", "/fused/image")
    assert [msg.header for msg in fused] == [msg.header for msg in sources]
    for msg, expected in zip(fused, by_hand(textures(8)), strict=True):
        assert msg.encoding == "rgb8"
        np.testing.assert_array_equal(pixels_of(msg), expected)
    statuses = decoded(tmp_path / "out", "/fused/status")
    assert [(s.mode, s.reason, s.skew_s) for s in statuses] == [(0, "", 0.0)] * 8
    assert [s.fused for s in statuses] == list(range(1, 9))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["message", "file"])
def test_a_compressed_result_holds_the_same_messages(tmp_path, bag, storage, compression):
    fuse_bag(bag, tmp_path / "plain")
    fuse_bag(bag, tmp_path / "packed", storage=storage, compression=compression, part_bytes=100_000)
    found = []
    for name in ("plain", "packed"):
        with Recording(tmp_path / name) as recording:
            found.append([(m.topic.name, m.log_ns, m.data) for m in recording.messages()])
            assert not recording.damage
    assert found[0] == found[1] and len(found[0]) == 16


@pytest.mark.slow
def test_sixteen_bit_thermal_goes_through_the_gain_control_in_order_however_many_workers(tmp_path):
    rng = np.random.default_rng(5)
    pairs = [
        (rgb, rng.normal(29_000 + 90 * n, 150, rgb.shape[:2]).astype(np.uint16))
        for n, (rgb, _) in enumerate(textures(12))
    ]
    bag = write_bag(tmp_path / "bag", camera_stream(pairs))
    for workers in (1, 3):
        fuse_bag(bag, tmp_path / f"out{workers}", workers=workers)
        for msg, expected in zip(
            decoded(tmp_path / f"out{workers}", "/fused/image"), by_hand(pairs), strict=True
        ):
            np.testing.assert_array_equal(pixels_of(msg), expected)


def test_the_same_recording_gives_the_same_bytes(tmp_path, bag):
    for name, workers in (("a", 1), ("b", 3)):
        fuse_bag(bag, tmp_path / name / "out", workers=workers, copy=True)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_missing_thermal_is_held_then_passed_and_told_as_the_node_would(tmp_path):
    stream = [m for m in camera_stream(textures(30)) if m[0] == "/rgb/image_raw" or m[2] < START_NS + 10**8]
    summary = fuse_bag(write_bag(tmp_path / "bag", stream), tmp_path / "out")
    modes = [MODES[s.mode] for s in decoded(tmp_path / "out", "/fused/status")]
    # Thermal stops after frame 2, whose successor is near enough; then 0.5 s are held.
    assert modes == ["FUSED"] * 4 + ["HELD"] * 14 + ["PASSTHROUGH"] * 12
    assert summary.reasons["last thermal frame is older than max_hold_s"] == 12
    passed = decoded(tmp_path / "out", "/fused/image")[-1]
    np.testing.assert_array_equal(pixels_of(passed), textures(30)[-1][0])


def test_thermal_that_was_recorded_after_the_deadline_is_not_waited_for_any_longer_than_live(tmp_path):
    late = [
        (t, k, ns + (60_000_000 if "thermal" in t else 0), m) for t, k, ns, m in camera_stream(textures(9))
    ]
    bag = write_bag(tmp_path / "bag", sorted(late, key=lambda m: m[2]))
    fuse_bag(bag, tmp_path / "out")
    skews_s = [s.skew_s for s in decoded(tmp_path / "out", "/fused/status")]
    assert np.isnan(skews_s[0]) and np.allclose(
        skews_s[3:], -PERIOD_NS / 1e9
    )  # the one before it is here in time
    fuse_bag(bag, tmp_path / "patient", Settings(sync=SyncSettings(deadline_s=0.1)))
    assert [s.skew_s for s in decoded(tmp_path / "patient", "/fused/status")] == [0.0] * 9


def test_messages_that_cannot_be_fused_are_passed_or_refused_with_the_reason(tmp_path):
    stream = list(camera_stream(textures(4)))
    broken = image(START_NS + PERIOD_NS, textures(1)[0][0], "rgb8")
    broken.data = broken.data[:100]
    strange = image(START_NS + 2 * PERIOD_NS, textures(1)[0][0], "rgb8")
    strange.encoding = "bayer_rggb8"
    stampless = image(0, textures(1)[0][0], "rgb8")
    for index, message in ((2, broken), (4, strange), (6, stampless)):
        stream[index] = (*stream[index][:3], message)
    summary = fuse_bag(write_bag(tmp_path / "bag", stream), tmp_path / "out")
    statuses = decoded(tmp_path / "out", "/fused/status")
    assert [MODES[s.mode] for s in statuses] == ["FUSED", "REFUSED", "PASSTHROUGH", "PASSTHROUGH"]
    told = ["", "data is truncated", "needs cv_bridge", "RGB stamp is zero"]
    assert all(part in s.reason for part, s in zip(told, statuses, strict=True))
    assert [msg.encoding for msg in decoded(tmp_path / "out", "/fused/image")] == [
        "rgb8",
        "bayer_rggb8",
        "rgb8",
    ]
    assert summary.modes["REFUSED"] == 1


def test_a_recording_that_was_looped_is_fused_in_each_pass(tmp_path):
    passes = [
        (t, k, ns + n * 10**9, m) for n in range(3) for t, k, ns, m in camera_stream(textures(6))
    ]  # stamps go back, the time of recording goes on
    assert fuse_bag(write_bag(tmp_path / "bag", passes), tmp_path / "out").modes == {"FUSED": 18}


def test_other_topics_are_copied_byte_by_byte_and_what_was_fused_before_is_replaced(tmp_path, bag):
    fuse_bag(bag, tmp_path / "once", copy=True)
    stream = list(camera_stream(textures(8)))
    stream[3:3] = [("/chatter", STRING, stream[3][2], string("hello"))]
    summary = fuse_bag(write_bag(tmp_path / "with", stream), tmp_path / "twice", copy=True)
    with Recording(tmp_path / "with") as before, Recording(tmp_path / "twice") as after:
        names = ["/chatter", "/rgb/image_raw", "/thermal/image_raw"]
        originals = [(m.topic.name, m.log_ns, m.data) for m in before.messages()]
        assert [(m.topic.name, m.log_ns, m.data) for m in after.messages(names)] == originals
        log_ns = [m.log_ns for m in after.messages()]
        assert all(a <= b for a, b in pairwise(log_ns))
    again = fuse_bag(tmp_path / "once", tmp_path / "again", copy=True)
    assert again.modes == summary.modes == {"FUSED": 8}
    assert digest(tmp_path / "again")["again_0.mcap"] == digest(tmp_path / "once")["once_0.mcap"]


def test_compressed_topics_are_fused_and_the_raw_images_of_a_camera_preferred(tmp_path):
    def packed(msg, kind):
        code = {"jpg": "jpeg", "png": "png"}[kind]
        encoded = cv2.imencode(f".{kind}", pixels_of(msg)[..., ::-1].squeeze())[1].reshape(-1)
        return TYPES.types[COMPRESSED](msg.header, code, encoded)

    raw = list(camera_stream(textures(3)))
    both = raw + [
        (f"{t}/compressed", COMPRESSED, ns, packed(m, "jpg" if "rgb" in t else "png")) for t, _, ns, m in raw
    ]
    both.sort(key=lambda m: m[2])
    fuse_bag(write_bag(tmp_path / "both", both), tmp_path / "of_raw")
    fuse_bag(write_bag(tmp_path / "raw", raw), tmp_path / "alone")
    for ours, alone in zip(
        *(decoded(tmp_path / n, "/fused/image") for n in ("of_raw", "alone")), strict=True
    ):
        np.testing.assert_array_equal(ours.data, alone.data)
    packed_only = [m for m in both if m[0].endswith("compressed")]
    summary = fuse_bag(write_bag(tmp_path / "packed", packed_only), tmp_path / "of_packed")
    assert summary.modes == {"FUSED": 3}
    image = decoded(tmp_path / "of_packed", "/fused/image")[0]
    jpeg = cv2.imdecode(np.asarray(packed_only[0][3].data), cv2.IMREAD_COLOR)
    (expected,) = by_hand([(jpeg, textures(3)[0][1])], encoding="bgr8")
    assert image.encoding == "bgr8"
    np.testing.assert_array_equal(pixels_of(image), expected)


def test_debug_images_are_written_on_request(tmp_path, bag):
    fuse_bag(bag, tmp_path / "out", Settings(topics=TopicSettings(debug_images=True)))
    for msg, (_, thermal) in zip(
        decoded(tmp_path / "out", "/fusion/debug/thermal_registered"), textures(8), strict=True
    ):
        np.testing.assert_array_equal(pixels_of(msg)[..., 0], thermal)
    assert len(decoded(tmp_path / "out", "/fusion/debug/overlay")) == 8


def test_an_ambiguous_recording_shows_its_image_topics_and_says_what_to_give(tmp_path):
    pairs = textures(2)
    stream = [
        *camera_stream(pairs, "/left/image", "/lwir/image"),
        *camera_stream(pairs, "/right/image", "/ir2"),
    ]
    bag = write_bag(tmp_path / "bag", sorted(stream, key=lambda m: m[2]))
    with pytest.raises(BagError) as told:
        fuse_bag(bag, tmp_path / "out")
    assert "give --rgb-topic" in str(told.value)
    for name in ("/left/image", "/right/image", "/lwir/image", "/ir2"):
        assert f"{name} " in str(told.value) and IMAGE in str(told.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.unfinished").exists()
    summary = fuse_bag(bag, tmp_path / "out", rgb_topic="/left/image", thermal_topic="/ir2")
    assert summary.modes == {"FUSED": 2}


# --- calibration ------------------------------------------------------------------------------------------------


def test_camera_info_and_tf_static_of_the_recording_register_as_the_calibration_file_does(tmp_path):
    rig = simple_calibration()
    sizes = [(camera.height_px, camera.width_px) for camera in (rig.rgb, rig.thermal)]
    rng = np.random.default_rng(1)
    pairs = [
        (
            rng.integers(0, 256, (*sizes[0], 3)).astype(np.uint8),
            rng.integers(0, 256, sizes[1]).astype(np.uint8),
        )
        for _ in range(2)
    ]
    write_pairs(pairs, tmp_path / "bag", 30.0, rig)
    summary = fuse_bag(tmp_path / "bag", tmp_path / "out")
    assert summary.registration.startswith("extrinsic") and summary.modes == {"FUSED": 2}
    save_calibration(rig, tmp_path / "rig.yaml")
    given = registered(mode="extrinsic", calibration_file=str(tmp_path / "rig.yaml"))
    fuse_bag(tmp_path / "bag", tmp_path / "by_file", given)
    images = [decoded(tmp_path / name, "/fused/image") for name in ("out", "by_file")]
    infos = decoded(tmp_path / "out", "/fused/camera_info")
    for ours, by_file, info in zip(*images, infos, strict=True):
        np.testing.assert_array_equal(ours.data, by_file.data)
        assert info.header == ours.header
    expected = list(by_hand([(r[..., ::-1], t) for r, t in pairs], registration.extrinsic(rig, 20.0)))
    np.testing.assert_array_equal(pixels_of(images[0][0])[..., ::-1], expected[0])


def test_what_is_missing_of_the_calibration_is_told_and_the_node_s_default_taken(tmp_path, bag):
    summary = fuse_bag(bag, tmp_path / "out")
    assert summary.registration == "identity (the recording has no calibrated camera_info of both cameras)"
    by_tf = registered(mode="extrinsic", extrinsics_source="tf")
    summary = fuse_bag(bag, tmp_path / "tf", by_tf)
    assert summary.modes == {"PASSTHROUGH": 8}
    assert summary.reasons == {
        "waiting for rgb/camera_info: publish it, or set registration.calibration_file or another registration.mode": 8
    }


# --- killed, and gone on with -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path):
    bag = write_bag(tmp_path / "bag", camera_stream(textures(60, (240, 320))))
    command = (
        "import sys; from pathlib import Path; from fusionproxy_ros.bags.fuse import fuse_bag; "
        "fuse_bag(Path(sys.argv[1]), Path(sys.argv[2]), copy=True, part_bytes=3_000_000, workers=1)"
    )

    def start(out):
        return subprocess.Popen([sys.executable, "-c", command, bag, out], stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole" / "out").wait() == 0
    out = tmp_path / "killed" / "out"
    process = start(out)
    while not (out.with_name("out.unfinished") / "part_3").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {
        path: path.stat().st_mtime_ns for path in out.with_name("out.unfinished").glob("part_*/part_*.mcap")
    }
    assert start(out).wait() == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    again = {path.stat().st_mtime_ns for path in out.glob("*.mcap")}
    assert len(kept) >= 4 and set(kept.values()) <= again  # what was whole was not made again


@pytest.mark.slow
@pytest.mark.parametrize("fatal", range(12))
def test_a_run_that_dies_while_it_puts_the_parts_together_goes_on(tmp_path, bag, monkeypatch, fatal):
    """Renames, removals and the like are counted from the end of fusing on; the fatal one does not happen."""
    fuse_bag(bag, tmp_path / "whole" / "out", part_bytes=100_000)
    finish, left = writing.BagWriter.finish, [fatal]

    class Killed(BaseException):
        pass

    def deadly(step):
        def counted(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return step(*arguments, **options)

        return counted

    def dying(self):
        with monkeypatch.context() as patch:
            for owner, name in (
                (Path, "rename"), (Path, "unlink"), (Path, "write_text"), (writing.shutil, "rmtree"),
            ):  # fmt: skip
                patch.setattr(owner, name, deadly(getattr(owner, name)))
            finish(self)

    monkeypatch.setattr(writing.BagWriter, "finish", dying)
    out = tmp_path / "killed" / "out"
    try:
        fuse_bag(bag, out, part_bytes=100_000)
    except Killed:
        assert not out.exists()
        monkeypatch.setattr(writing.BagWriter, "finish", finish)
        fuse_bag(bag, out, part_bytes=100_000)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_what_was_begun_with_other_settings_is_not_mixed(tmp_path, bag, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing.BagWriter, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            fuse_bag(bag, tmp_path / "out", part_bytes=100_000)
    with pytest.raises(BagError, match=r"begun with other settings \(fusion\)"):
        fuse_bag(bag, tmp_path / "out", Settings(sync=SyncSettings(max_hold_s=0.1)), part_bytes=100_000)
    fuse_bag(bag, tmp_path / "out", part_bytes=100_000)
    with pytest.raises(BagError, match="exists already"):
        fuse_bag(bag, tmp_path / "out")


# --- damage, and the command ----------------------------------------------------------------------------------------


def test_a_damaged_recording_gives_every_readable_frame_the_offset_and_exit_code_1(tmp_path, capsys):
    file = write_mcap(tmp_path / "drive.mcap", camera_stream(textures(20)))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    with Recording(file) as recording:
        readable = sum(1 for _ in recording.messages(["/rgb/image_raw"]))
    assert 12 <= readable < 20
    assert main(["fuse-bag", str(file), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert f"{readable} frames" in printed and f"damaged: {file}: offset " in printed
    assert len(decoded(tmp_path / "out", "/fused/image")) == readable


def test_messages_whose_bytes_are_not_what_they_should_be_are_named_and_the_rest_is_fused(tmp_path):
    bag = write_bag(tmp_path / "bag", camera_stream(textures(6)), "SQLITE3")
    database = sqlite3.connect(bag / "bag.db3")
    database.execute("UPDATE messages SET data = substr(data, 1, 30) WHERE id IN (5, 8)")  # RGB 2, thermal 3
    database.commit()
    database.close()
    summary = fuse_bag(bag, tmp_path / "out")
    assert summary.modes == {"FUSED": 5} and len(summary.damage) == 2
    assert all("is no sensor_msgs/msg/Image" in str(damage) for damage in summary.damage)


def test_shards_of_several_recordings_are_disjoint_and_whole(tmp_path, capsys):
    bags = [write_bag(tmp_path / f"drive{n}", camera_stream(textures(2, seed=n))) for n in range(3)]
    out = tmp_path / "fused"
    for shard in ("0/2", "1/2"):
        assert main(["fuse-bag", *map(str, bags), "--out", str(out), "--shard", shard]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["drive0", "drive1", "drive2"]
    assert main(["fuse-bag", *map(str, bags), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("fused before") == 3


def test_of_a_file_for_several_cameras_the_named_ones_parameters_are_used(tmp_path, bag, capsys):
    file = tmp_path / "rig.yaml"
    file.write_text("fusion: {ros__parameters: {cameras: [front, rear], rear: {debug_images: true}}}")
    arguments = ["fuse-bag", str(bag), "--out"]
    for camera, has_debug in ("front", False), ("rear", True):
        out = tmp_path / camera
        assert main([*arguments, str(out), "--params-file", str(file), "--camera", camera]) == 0
        with Recording(out) as fused:
            assert ("/fusion/debug/overlay" in fused.topics) == has_debug
    assert main([*arguments, str(tmp_path / "none"), "--params-file", str(file)]) == 2
    assert main([*arguments, str(tmp_path / "none"), "--camera", "rear"]) == 2
    told = capsys.readouterr().err
    assert "say which with --camera" in told and "give --params-file too" in told


def test_recordings_of_one_name_are_not_fused_over_each_other(tmp_path, bag, capsys):
    assert main(["fuse-bag", str(bag), str(tmp_path / "other" / "bag"), "--out", str(tmp_path / "out")]) == 2
    assert "several BAGs are called bag" in capsys.readouterr().err


def test_one_recording_that_cannot_be_fused_does_not_stop_the_others(tmp_path, capsys, bag):
    only_text = write_bag(tmp_path / "text", [("/chatter", STRING, 1, string("x"))])
    assert main(["fuse-bag", str(only_text), str(bag), "--out", str(tmp_path / "fused")]) == 2
    assert "none looks like it" in capsys.readouterr().err
    assert len(decoded(tmp_path / "fused" / "bag", "/fused/image")) == 8


def test_the_node_s_parameter_file_is_obeyed(tmp_path, bag, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {sync_policy: exact_time}}")
    assert main(["fuse-bag", str(bag), "--out", str(tmp_path / "out"), "--params-file", str(file)]) == 2
    assert "sync_policy is exact_time, which only the live node has" in capsys.readouterr().err


def test_frames_wait_in_bounded_number_when_the_time_of_recording_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "MAX_WAITING", 5)
    longest = []
    pass_time = offline.OfflinePipeline.pass_time
    monkeypatch.setattr(
        offline.OfflinePipeline,
        "pass_time",
        lambda self, now_ns: longest.append(self._waiting) or pass_time(self, now_ns),
    )
    stream = [(t, k, START_NS, m) for t, k, _, m in camera_stream(textures(30)) if t == "/rgb/image_raw"]
    stream.insert(
        0, ("/thermal/image_raw", IMAGE, START_NS, image(START_NS - 10**9, textures(1)[0][1], "mono8"))
    )
    assert fuse_bag(write_bag(tmp_path / "bag", stream), tmp_path / "out").modes == {"PASSTHROUGH": 30}
    assert max(longest) <= 7


def test_depth_registers_by_the_recorded_depth_images(tmp_path):
    rig = simple_calibration()
    sizes = [(camera.height_px, camera.width_px) for camera in (rig.rgb, rig.thermal)]
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (*sizes[0], 3)).astype(np.uint8)
    thermal = rng.integers(0, 256, sizes[1]).astype(np.uint8)
    depth_m = np.full(sizes[0], 4.0, np.float32)
    depth = ("/depth/image", IMAGE, START_NS, image(START_NS, depth_m, "32FC1"))
    stream = [depth, *camera_stream([(rgb, thermal)])]
    save_calibration(rig, tmp_path / "rig.yaml")
    given = registered(mode="depth", calibration_file=str(tmp_path / "rig.yaml"))
    summary = fuse_bag(write_bag(tmp_path / "bag", stream), tmp_path / "out", given)
    assert summary.modes == {"FUSED": 1} and not summary.reasons
    (fused,) = decoded(tmp_path / "out", "/fused/image")
    register = by_depth(replace(rig), 20.0)
    fuser = Fuser(read_weights(DEFAULT_STUDENT), GainSettings(), "cpu", 1)
    frames = Frame(1, "", rgb, "rgb8"), Frame(1, "", thermal, "")
    pair = Pair(*frames, Mode.FUSED, depth=Frame(1, "", depth_m, "32FC1"))
    np.testing.assert_array_equal(pixels_of(fused), fuser.fuse(pair, register).pixels)


def test_thermal_that_is_frozen_is_noticed_in_a_recording_too(tmp_path):
    pairs = textures(12)
    frozen = [(rgb, pairs[0][1]) for rgb, _ in pairs]
    bag = write_bag(tmp_path / "bag", camera_stream(frozen))
    summary = fuse_bag(
        bag, tmp_path / "out", Settings(sync=SyncSettings(frozen_after_s=0.1, max_hold_s=0.05))
    )
    assert summary.modes["PASSTHROUGH"] and any("frozen" in reason for reason in summary.reasons)


def test_a_recording_of_which_no_frame_was_fused_is_no_success(tmp_path, capsys):
    stream = [message for message in camera_stream(textures(4)) if message[0] == "/rgb/image_raw"]
    late = (
        "/thermal/image_raw",
        IMAGE,
        START_NS + 10**10,
        image(START_NS + 10**10, textures(1)[0][1], "mono8"),
    )
    bag = write_bag(tmp_path / "bag", [*stream, late])
    assert main(["fuse-bag", str(bag), "--out", str(tmp_path / "out")]) == 1
    assert "4 PASSTHROUGH" in capsys.readouterr().out
