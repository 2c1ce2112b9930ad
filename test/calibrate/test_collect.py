"""Views of the board come from folders or from a bag, whatever else lies there, and the report says what was done."""

import json
import sqlite3

import cv2
import numpy as np
import pytest
import recordings
from recordings import IMAGE, image
from rendered_boards import BOARD, RGB, THERMAL, TRUTH, counts, pose, render, to_thermal, turn_deg

from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.calibrate import collect as collect_module
from fusionproxy_ros.calibrate.board import BoardError, BoardView
from fusionproxy_ros.calibrate.board_report import calibrate_board
from fusionproxy_ros.calibrate.collect import Exposure, collect, from_bag, from_folders
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.core.image_files import InputError
from fusionproxy_ros.geometry.calibration_files import load_calibration

pytestmark = pytest.mark.slow

USED = 7  # of POSES; more only take time


@pytest.fixture(scope="module")
def pictures():
    """RGB (uint8, BGR) and thermal (uint16) of each pose."""
    result = []
    for index in range(USED):
        rgb = cv2.merge([render(RGB, *pose(index)).astype(np.uint8)] * 3)
        thermal = render(THERMAL, *to_thermal(*pose(index)), dark=300, light=0, around=-1000)
        result.append((rgb, counts(thermal, index)))
    return result


@pytest.fixture
def folders(tmp_path, pictures):
    for side in ("rgb", "thermal"):
        (tmp_path / side).mkdir()
    for index, (rgb, thermal) in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"rgb/{index:02}.jpg"), rgb)
        cv2.imwrite(str(tmp_path / f"thermal/{index:02}.png"), thermal)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """find_board without looking: the place and size of the one bright thing in the picture."""

    def found(pixels, board):
        y, x = np.nonzero(pixels.reshape(*pixels.shape[:2], -1)[..., 0])
        return (
            None if not x.size else (np.array([[x.min(), y.min()]]) + np.mgrid[:9, :6].reshape(2, -1).T * 2.0)
        )

    monkeypatch.setattr(collect_module, "find_board", found)


def spot(x, channels=3, size=(120, 160)):
    pixels = np.zeros((*size, channels) if channels > 1 else size, np.uint8 if channels > 1 else np.uint16)
    if x is not None:
        pixels[20:30, x : x + 10] = 200
    return pixels


# --- folders


def test_folders_become_a_calibration_and_a_report(folders, capsys):
    (folders / "rgb/90.jpg").write_bytes(b"not an image")
    cv2.imwrite(str(folders / "thermal/91.png"), np.zeros((10, 10), np.uint16))
    cv2.imwrite(str(folders / "rgb/91.png"), np.zeros((48, 64, 3), np.uint8))
    shots = from_folders(folders / "rgb", folders / "thermal", BOARD)
    assert shots.found == {"rgb": 6, "thermal": USED}  # one board leaves the RGB picture
    assert len(shots.problems) == 2
    assert "90.jpg is not a readable image" in shots.problems[0]
    assert "91: thermal is 10x10, others 400x320" in shots.problems[1]

    result = calibrate_board(shots, BOARD, folders / "out")
    calibration = load_calibration(folders / "out/calibration.yaml")
    np.testing.assert_array_equal(calibration.rotation, result.calibration.rotation)
    assert turn_deg(calibration.rotation, TRUTH.rotation) < 1
    np.testing.assert_allclose(calibration.translation_m, TRUTH.translation_m, atol=0.01)

    report = json.loads((folders / "out/report.json").read_text())
    assert report["rms_px"]["stereo"] == result.rms_px < 0.3
    assert [view["name"] for view in report["views"]] == [view.name for view in shots.views]
    assert report["baseline_m"] == pytest.approx(np.linalg.norm(TRUTH.translation_m), abs=0.01)
    assert report["unusable"] == shots.problems
    for name in ("coverage.png", "overlay.png"):
        assert cv2.imread(str(folders / "out" / name)).shape[1] > 1000
    printed = capsys.readouterr().out
    assert "stereo RMS" in printed and "warning: only 6 views" in printed and "90.jpg" in printed


def test_too_few_boards_are_reported_with_the_files_that_could_not_be_used(folders):
    for index in range(1, USED):
        (folders / f"thermal/{index:02}.png").write_bytes(b"")
    shots = from_folders(folders / "rgb", folders / "thermal", BOARD)
    with pytest.raises(BoardError, match=r"only 1 of 6 views(.|\n)*01.png is not a readable image"):
        calibrate_board(shots, BOARD, folders / "out")


@pytest.mark.parametrize("damage, told", [("missing", "no such folder"), ("renamed", "share no file name")])
def test_folders_that_cannot_be_used_are_named_with_the_cure(tmp_path, damage, told):
    (tmp_path / "rgb").mkdir()
    cv2.imwrite(str(tmp_path / "rgb/1.png"), spot(3))
    if damage == "renamed":
        (tmp_path / "thermal").mkdir()
        cv2.imwrite(str(tmp_path / "thermal/other.png"), spot(3, 1))
    with pytest.raises(InputError, match=told):
        from_folders(tmp_path / "rgb", tmp_path / "thermal", BOARD)


def test_nothing_but_unreadable_files_is_an_error_that_names_them(tmp_path):
    for side in ("rgb", "thermal"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "1.png").write_bytes(b"")
    with pytest.raises(
        BoardError, match=r"no usable image of both cameras\n  1: .*1.png is not a readable image"
    ):
        from_folders(tmp_path / "rgb", tmp_path / "thermal", BOARD)


# --- which views are kept


def exposures(places, step_s=0.1):
    for i, x in enumerate(places):
        yield Exposure(f"{i:03}", spot(x), spot(x, 1), int(i * step_s * NS_PER_S))


def kept_names(places, **more):
    return [view.name for view in collect(exposures(places, **more), BOARD, least_motion=0.02).views]


def test_a_board_that_stands_still_is_kept_once(quick):
    assert len(kept_names([40] * 30 + [90] * 30)) == 2


def test_of_two_like_views_the_one_at_rest_is_kept(quick):
    assert kept_names([10, 40, 40, 80, 80]) == ["000", "002", "004"]


def test_the_number_of_views_is_bounded_and_those_kept_differ_most(quick, monkeypatch):
    monkeypatch.setattr(collect_module, "MAX_BOARD_VIEWS", 5)
    names = kept_names([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140])
    places = sorted(10 * int(name) for name in names)
    assert len(places) == 5
    assert min(np.diff(places)) >= 20 and places[-1] - places[0] >= 90


def test_a_view_of_one_camera_alone_is_kept_but_gives_way_to_one_of_both(quick):
    shots = collect(
        [
            Exposure("rgb alone", spot(10), spot(None, 1), 0),
            Exposure("both", spot(10), spot(10, 1), NS_PER_S),
            Exposure("thermal alone", spot(None), spot(90, 1), 2 * NS_PER_S),
        ],
        BOARD,
        least_motion=0.02,
    )
    assert [view.name for view in shots.views] == ["both", "thermal alone"]
    assert isinstance(shots.views[0], BoardView) and shots.views[1].rgb is None


# --- bags


def write_bag(path, storage, streams):
    """streams: topic -> [(stamp_s, pixels, encoding)]; recorded in the order of stamps."""
    entries = [(stamp_s, topic, *rest) for topic, stream in streams.items() for stamp_s, *rest in stream]
    entries = [
        (topic, round(s * NS_PER_S), *rest) for s, topic, *rest in sorted(entries, key=lambda e: e[:2])
    ]
    return recordings.write_bag(path, ((t, IMAGE, ns, image(ns, *rest)) for t, ns, *rest in entries), storage)


@pytest.mark.parametrize("storage", ["SQLITE3", "MCAP"])
def test_a_bag_gives_pairs_nearest_in_time_on_topics_found_by_type(tmp_path, storage, quick):
    """Thermal at 20 Hz, 5 ms late; the board stands still for three RGB frames, then moves on."""
    places = [10, 10, 10, 60, 60, 60, 110, 110, 110]
    rgb = [(1 + i / 10, spot(x), "rgb8") for i, x in enumerate(places)]
    thermal = [(1.005 + i / 20, spot(places[min(i // 2, 8)], 1), "mono16") for i in range(18)]
    bag = write_bag(tmp_path / "bag", storage, {"/a/image": rgb, "/b/image": thermal})
    shots = from_bag(bag, BOARD)
    assert shots.searched == {"rgb": 9, "thermal": 9}
    assert len(shots.views) == 3 and not shots.problems
    for view in shots.views:
        np.testing.assert_array_equal(view.rgb, view.thermal)
    assert shots.views[0].name == "1.100000000"  # the first of which the board is known to stand still


def test_a_long_bag_is_sampled_evenly(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(collect_module, "MAX_SEARCHED", 10)
    rgb = [(1 + i / 30, spot(i), "bgr8") for i in range(95)]
    thermal = [(1 + i / 30, spot(i, 1), "mono16") for i in range(95)]
    shots = from_bag(write_bag(tmp_path / "bag", "SQLITE3", {"/rgb": rgb, "/thermal": thermal}), BOARD)
    assert shots.searched["rgb"] == 10
    assert max(view.rgb[0, 0] for view in shots.views) == 90


def test_rgb_frames_without_thermal_and_messages_that_cannot_be_read_are_named(tmp_path, quick):
    rgb = [(1.0, spot(10), "rgb8"), (2.0, spot(60), "rgb8"), (3.0, spot(110), "yuv422")]
    thermal = [(1.0, spot(10, 1), "mono16"), (2.5, spot(60, 1), "mono16")]
    shots = from_bag(write_bag(tmp_path / "bag", "SQLITE3", {"/rgb": rgb, "/thermal": thermal}), BOARD)
    told = "\n".join(shots.problems)
    assert "2.000000000: no thermal frame near it" in told
    assert "3.000000000: encoding 'yuv422'" in told


def test_a_message_whose_bytes_are_no_image_is_named_and_the_others_serve(tmp_path, quick):
    rgb = [(1 + i, spot(40 * i), "bgr8") for i in range(3)]
    thermal = [(1 + i, spot(40 * i, 1), "mono16") for i in range(3)]
    bag = write_bag(tmp_path / "bag", "SQLITE3", {"/rgb": rgb, "/thermal": thermal})
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = x'0001000001' WHERE rowid = 1")
    shots = from_bag(bag, BOARD)
    assert shots.searched["rgb"] == 2 and "1.000000000: " in "\n".join(shots.problems)


def test_topics_that_cannot_be_told_apart_are_asked_for(tmp_path, quick):
    stream = [(1.0, spot(10), "rgb8")]
    bag = write_bag(tmp_path / "bag", "SQLITE3", {"/left": stream, "/right": stream, "/lwir": stream})
    with pytest.raises(BagError, match=r"give --rgb-topic.*\n.*\n  /left .*\n  /lwir .*\n  /right "):
        from_bag(bag, BOARD)
    with pytest.raises(BagError, match="no image topic /middle in it"):
        from_bag(bag, BOARD, rgb_topic="/middle")


def test_a_bag_that_is_cut_off_gives_the_views_before_the_cut_and_is_named_in_the_report(tmp_path, quick):
    rgb = [(1 + i, spot(5 * i), "bgr8") for i in range(20)]
    thermal = [(1 + i, spot(5 * i, 1), "mono16") for i in range(20)]
    bag = write_bag(tmp_path / "bag", "MCAP", {"/rgb": rgb, "/thermal": thermal})
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shots = from_bag(bag, BOARD)
    assert 8 <= shots.searched["rgb"] <= 11 and "offset" in "\n".join(shots.problems)


def test_something_that_is_no_bag_is_named(tmp_path):
    with pytest.raises(BagError, match=r"no .mcap or .db3 file in it"):
        from_bag(tmp_path, BOARD)
    with pytest.raises(BagError, match="no such recording"):
        from_bag(tmp_path / "missing", BOARD)
