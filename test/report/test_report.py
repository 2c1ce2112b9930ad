"""The page about a recording says what is in it, shows it, and needs nothing but itself."""

import base64
import itertools
import json
import math
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from recordings import START_NS, header, image, write_bag
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.core.frames import MODES
from fusionproxy_ros.report.build import ReportError, report
from fusionproxy_ros.report.moment_images import REGISTERED
from fusionproxy_ros.report.page import Section, render
from fusionproxy_ros.report.timeline import COLUMNS, NARROWEST, curve_strip, mode_strip

IMAGE, COMPRESSED, STATUS = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "fusionproxy_ros/msg/FusionStatus",
)
MESSAGE = Path(__file__).parents[2] / "msg" / "FusionStatus.msg"
TYPES = get_typestore(Stores.ROS2_KILTED)
TYPES.register(get_types_from_msg(MESSAGE.read_text(), STATUS))
PERIOD_NS, SKEW_NS = 33_000_000, 4_000_000
FUSED, HELD, PASSTHROUGH, REFUSED, DROPPED = range(5)
LATE, OLD = "no thermal frame within sync_tolerance_s", "last thermal frame is older than max_hold_s"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def time(ns):
    return TYPES.types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)


def status(stamp_ns, mode=FUSED, reason="", thermal_ns=0, live=True, **fields):
    """A FusionStatus as the node fills it."""
    blank = {
        name: math.nan if name in ("skew_s", "clock_offset_s", "thermal_age_s", "parallax_error_px") else 0
        for name in TYPES.types[STATUS].__dataclass_fields__
        if name not in ("__msgtype__", "header", "mode", "reason", "thermal_stamp") and not name.isupper()
    }
    blank |= {"misalignment_x_px": math.nan, "misalignment_y_px": math.nan}
    if mode <= HELD:
        blank |= {"skew_s": (thermal_ns - stamp_ns) / 1e9, "registration_valid_fraction": 1.0}
        blank |= {"thermal_low": 1000.0, "thermal_high": 3000.0}
    if live and mode <= PASSTHROUGH:
        blank |= {"student_s": 0.012, "publish_s": 0.001, "total_s": 0.014}
    return TYPES.types[STATUS](
        header=header(stamp_ns), mode=mode, reason=reason, thermal_stamp=time(thermal_ns), **blank | fields
    )


def scene(n, shape=(96, 128)):
    """RGB (H, W, 3) uint8 whose brightness tells n, and thermal (H, W) uint16 counts within 1000..3000."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    rgb = np.repeat(((x + y) % 64 + 3 * n % 180).astype(np.uint8)[..., None], 3, 2)
    thermal = (1000 + 2000 * (np.hypot(x - 64, y - 48) < 20)).astype(np.uint16)
    return rgb, thermal


def recorded(modes, reasons=None, thermal_shape=(48, 64), debug=False, cameras=True, live=True, **fields):
    """(topic, type, log_ns, message) of a fused run: mode of each frame, and {frame: reason}."""
    reasons, used_ns = reasons or {}, 0
    counts = dict.fromkeys(("fused", "held", "passed", "refused", "dropped"), 0)
    for n, mode in enumerate(modes):
        stamp_ns = START_NS + n * PERIOD_NS
        rgb, thermal = scene(n)
        thermal = cv2.resize(thermal, thermal_shape[::-1], interpolation=cv2.INTER_NEAREST)
        if mode == FUSED:
            used_ns = stamp_ns + SKEW_NS
        log_ns = stamp_ns + 6_000_000
        if cameras:
            yield "/front/image_raw", IMAGE, log_ns - 4_000_000, image(stamp_ns, rgb, "rgb8")
            if mode == FUSED:
                yield "/boson/image_raw", IMAGE, log_ns - 1_000_000, image(used_ns, thermal, "mono16")
        if mode <= PASSTHROUGH:
            yield "/fused/image", IMAGE, log_ns + 10_000_000, image(stamp_ns, np.roll(rgb, 5, 1), "rgb8")
        if debug and mode <= HELD:
            grey = cv2.resize(thermal, rgb.shape[1::-1]) // 12
            message = image(stamp_ns, grey.astype(np.uint8), "mono8")
            yield f"/fusion{REGISTERED}", IMAGE, log_ns + 10_000_000, message
        counts[("fused", "held", "passed", "refused", "dropped")[mode]] += 1
        of_frame = {key: value(n) if callable(value) else value for key, value in fields.items()}
        message = status(
            stamp_ns,
            mode,
            reasons.get(n, ""),
            used_ns if mode <= HELD else 0,
            live,
            received=n + 1,
            **counts | of_frame,
        )
        yield "/fused/status", STATUS, log_ns + 11_000_000, message


def in_order(stream):
    return sorted(stream, key=lambda entry: entry[2])


@pytest.fixture
def reported(tmp_path):
    """Writes a stream to a bag and reports on it: the summary and the page."""
    numbers = itertools.count()

    def make(stream, storage="MCAP"):
        bag = write_bag(tmp_path / f"bag{next(numbers)}", in_order(stream), storage, types=TYPES)
        summary = report(bag, tmp_path / "report.html")
        return summary, Page(summary.page)

    return make


class Page:
    """What a browser would find, by strict XML: every tag closed, every character escaped."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        self.root = ElementTree.fromstring(self.text.removeprefix("<!DOCTYPE html>"))

    def all(self, path):
        return self.root.findall(f".//{path}")

    def words(self, element=None):
        return " ".join("".join((self.root if element is None else element).itertext()).split())

    def facts(self):
        return {
            self.words(d.find("dt")): self.words(d.find("dd")) for d in self.all("dl[@class='facts']/div")
        }

    def bars(self, mode):
        """Left and right ends of a mode in the strip, 0..1, and the tooltips."""
        rects = self.all(f"svg[@class='modes']/rect[@class='{mode}']")
        return [
            (
                int(r.get("x")) / COLUMNS,
                (int(r.get("x")) + int(r.get("width"))) / COLUMNS,
                self.words(r),
            )
            for r in rects
        ]

    def cards(self, kind):
        return self.all(f"section[@class='{kind}']//article")

    def pictures(self, element=None):
        """What each picture shows -> its decoded pixels."""
        found = []
        for figure in (self.root if element is None else element).iter("figure"):
            for picture in figure.findall("img"):
                head, data = picture.get("src").split(",")
                assert head == "data:image/jpeg;base64"
                pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
                assert pixels is not None
                found.append((self.words(figure.find("figcaption")), pixels))
        return found


# --- a recording


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_the_page_tells_modes_reasons_and_where_they_are(reported, storage):
    """40 frames: four held from the 11th on, two passed through after them."""
    modes = [FUSED] * 10 + [HELD] * 4 + [PASSTHROUGH] * 2 + [FUSED] * 24
    summary, html = reported(
        recorded(modes, dict.fromkeys(range(10, 14), LATE) | dict.fromkeys((14, 15), OLD)), storage
    )
    assert summary.modes == {"FUSED": 34, "HELD": 4, "PASSTHROUGH": 2}
    assert summary.headline == (
        f"34 of 40 frames fused; 4 held because {LATE}; 2 passed through because {OLD}; longest gap 33 ms"
    )
    assert html.words(html.all("h1")[0]) == summary.headline
    assert html.facts()["frames answered"].startswith("40 of 40")
    assert "p50 4 ms" in html.facts()["skew p99"] and html.facts()["latency p99"].startswith("14 ms")
    left, right, tip = html.bars("HELD")[0]
    assert len(html.bars("HELD")) == len(html.bars("PASSTHROUGH")) == 1
    # The first image was logged 21 ms before the first status; the last status ends the recording.
    span_ns = 39 * PERIOD_NS + 15_000_000
    assert left == pytest.approx((10 * PERIOD_NS + 15e6) / span_ns, abs=0.003)
    assert right == pytest.approx((14 * PERIOD_NS + 15e6) / span_ns, abs=0.003)
    assert tip.startswith("HELD, 4 frames from 0.3") and LATE in tip
    rows = [[html.words(cell) for cell in row] for row in html.all("table[@class='reasons']/tbody/tr")]
    assert [row[:2] for row in rows] == [["HELD", "4"], ["PASSTHROUGH", "2"]]
    assert "look at its driver and cable" in rows[1][2]


def test_a_perfect_run_has_no_complaint(reported):
    summary, html = reported(recorded([FUSED] * 20))
    assert summary.headline == "All 20 frames fused; longest gap 33 ms"
    assert not html.all("table[@class='reasons']") and not html.all("div[@class='damage']")
    assert html.all("ul[@class='notes']") == []


def test_pictures_are_those_of_their_moment(reported):
    """Frame 21 is the slowest: its card shows its own three images, told by their brightness."""
    slow = recorded([FUSED] * 30, total_s=lambda n: 0.2 if n == 21 else 0.014)
    _, html = reported(slow)
    card = next(card for card in html.cards("worst") if "Largest latency" in html.words(card))
    assert "0.71 s" in html.words(card.find("p"))
    shown = dict(html.pictures(card))
    rgb, _ = scene(21)
    assert abs(shown["RGB"].mean() - rgb.mean()) < 2
    assert abs(shown["fused"].astype(int) - np.roll(rgb, 5, 1)).mean() < 4
    # By the window of the status, 1000..3000: the disc is white, the rest black.
    assert shown["thermal"][24, 32].mean() > 250 and shown["thermal"][5, 5].mean() < 5
    assert len(html.cards("sheet")) == 12
    markers = html.all("nav[@class='markers']/a")
    assert len(markers) == len(html.cards("worst"))
    assert {m.get("href")[1:] for m in markers} == {card.get("id") for card in html.cards("worst")}


def test_what_got_no_output_is_shown_and_counted(reported):
    modes = [FUSED] * 8 + [REFUSED] + [DROPPED] * 2 + [FUSED] * 5
    reasons = {8: "step 12 is smaller than a row", 9: "overload: older", 10: "overload: older"}
    summary, html = reported(recorded(modes, reasons))
    assert "1 refused because step 12 is smaller than a row; 2 dropped because overload" in summary.headline
    assert html.facts()["frames answered"] == "13 of 162 dropped, 1 refused"
    refused = next(card for card in html.cards("worst") if "First refused frame" in html.words(card))
    assert "no output" in html.words(refused) and [name for name, _ in html.pictures(refused)] == ["RGB"]


def test_reasons_that_differ_in_figures_alone_count_as_one(reported):
    frozen = {n: f"thermal is frozen: the same image for 0.{n} s" for n in (3, 4, 5)}
    _, html = reported(recorded([FUSED] * 3 + [HELD] * 3 + [FUSED] * 3, frozen))
    rows = [[html.words(cell) for cell in row] for row in html.all("table[@class='reasons']/tbody/tr")]
    assert len(rows) == 1 and rows[0][1] == "3" and "the same image for … s" in rows[0][2]


def test_an_offline_recording_claims_no_latency(reported):
    """fuse-bag leaves what only a clock on the wall tells at 0; total_s is the waiting alone."""
    _, html = reported(recorded([FUSED] * 10, live=False, total_s=0.03, sync_wait_s=0.03))
    assert html.facts()["latency p99"].startswith("not live")
    assert "not of a live run" in html.words(html.all("ul[@class='notes']")[0])
    assert "latency" not in [html.words(b) for b in html.all("figcaption/b")]


@pytest.mark.parametrize("debug", [True, False])
def test_metrics_need_thermal_on_the_rgb_grid(reported, debug):
    _, html = reported(recorded([FUSED] * 3, debug=debug))
    table = html.all("table[@class='scores']")
    if debug:
        assert [html.words(row.find("th")) for row in table[0].find("tbody")] == [
            "RGB alone",
            "average",
            "maximum",
            "fused",
        ]
        assert "Mean over 3 fused frames" in html.words()
        assert "thermal on the RGB grid" in [name for name, _ in html.pictures()]
    else:
        assert not table and "Set debug_images: true" in html.words()


def test_raw_thermal_of_the_rgb_size_is_measured_unless_it_was_moved(reported):
    _, html = reported(recorded([FUSED] * 4, thermal_shape=(96, 128)))
    assert html.all("table[@class='scores']")
    _, html = reported(recorded([FUSED] * 4, thermal_shape=(96, 128), parallax_error_px=3.0))
    assert not html.all("table[@class='scores']") and "debug_images" in html.words()


def test_jumps_misalignment_and_gaps_become_moments(reported):
    stream = recorded(
        [FUSED] * 20,
        thermal_high=lambda n: 3000.0 + 500 * (n >= 12),
        misalignment_x_px=lambda n: 9.0 if n == 6 else 1.0,
        misalignment_y_px=0.0,
    )
    late = [
        (t, k, log_ns + 300_000_000 * (log_ns > START_NS + 17 * PERIOD_NS), m) for t, k, log_ns, m in stream
    ]
    summary, html = reported(late)
    titles = {html.words(b) for b in html.all("p[@class='point']/b")}
    assert titles >= {"Largest jump of the thermal window.", "Largest misalignment.", "Longest gap."}
    assert "longest gap 333 ms" in summary.headline and "(+9.0, +0.0) px off RGB" in html.words()
    assert "1000 – 3000 to 1000 – 3500" in html.words()


def test_statuses_that_the_recorder_lost_are_missed(reported):
    whole = list(recorded([FUSED] * 20))
    kept = [entry for entry in whole if entry[1] != STATUS or entry[3].received not in (5, 6, 9)]
    _, html = reported(kept)
    assert "3 statuses are missing" in html.words(html.all("ul[@class='notes']")[0])


def test_a_recording_without_its_cameras_still_shows_the_fused_images(reported):
    _, html = reported(recorded([FUSED] * 5, cameras=False))
    assert {name for name, _ in html.pictures()} == {"fused"}
    notes = html.words(html.all("ul[@class='notes']")[0])
    assert "record the RGB topic too" in notes and "record the thermal topic too" in notes


def test_compressed_images_are_shown(reported):
    def squeezed():
        for topic, kind, log_ns, msg in recorded([FUSED] * 5):
            if topic == "/front/image_raw":
                png = cv2.imencode(".png", msg.data.reshape(msg.height, msg.width, 3)[..., ::-1])[1].reshape(
                    -1
                )
                msg, topic, kind = (
                    TYPES.types[COMPRESSED](msg.header, "rgb8; png", png),
                    topic + "/compressed",
                    COMPRESSED,
                )
            yield topic, kind, log_ns, msg

    _, html = reported(squeezed())
    assert {name for name, _ in html.pictures()} == {"fused", "RGB", "thermal"}


def test_damage_is_at_the_top(tmp_path):
    bag = write_bag(tmp_path / "bag", in_order(recorded([FUSED] * 12)), types=TYPES)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    (bag / "metadata.yaml").unlink()
    summary = report(bag, tmp_path / "report.html")
    html = Page(summary.page)
    assert 0 < summary.modes["FUSED"] < 12
    assert file.name in html.words(html.all("div[@class='damage']")[0])


def test_text_of_strangers_stays_text(tmp_path):
    evil = "<script>alert(1)</script>\u202e\x07\" onload='x' & <img src=http://evil.example/x.png>"
    stream = [
        (topic.replace("/fused", "/a<b>&c"), kind, log_ns, msg)
        for topic, kind, log_ns, msg in recorded(
            [HELD, FUSED, HELD, PASSTHROUGH], {0: evil, 2: evil, 3: "x" * 100_000}
        )
    ]
    bag = write_bag(tmp_path / "<b>bag", in_order(stream), types=TYPES)
    html = Page(report(bag, tmp_path / "report.html").page)
    assert not html.all("script") and "<script" not in html.text and "http://evil" in html.words()
    assert all(name in {"src", "alt"} for picture in html.all("img") for name in picture.attrib)
    assert "\u202e" not in html.text and "\x07" not in html.text and len(html.text) < 200_000
    assert "/a<b>&c/status" in html.words()


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38, -1.0, 0.0])
@pytest.mark.parametrize("count", [1, 30])
def test_figures_of_strangers_are_survived(reported, value, count):
    """Every float that value, every counter as large as can be, all recorded at one time with one stamp."""
    floats = {name: value for name, field in vars(status(0)).items() if isinstance(field, float)}
    counters = dict.fromkeys(("received", "fused", "held", "passed", "thermal_refused"), 2**64 - 1)
    one = status(START_NS, HELD, "", 5, **floats | counters)
    summary, html = reported([("/x/status", STATUS, START_NS, one)] * count)
    assert summary.modes == {"HELD": count} and html.bars("HELD")


@pytest.mark.parametrize("shape", [(1, 1), (70_000, 1), (1, 70_000)])
def test_images_of_any_shape_are_survived(reported, shape):
    def odd():
        for topic, kind, log_ns, msg in recorded([FUSED] * 3):
            if kind == IMAGE:
                grey = "boson" in topic
                pixels = np.ones(shape, np.uint16) if grey else np.zeros((*shape, 3), np.uint8)
                stamp_ns = msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec
                msg = image(stamp_ns, pixels, "mono16" if grey else "rgb8")
            yield topic, kind, log_ns, msg

    _, html = reported(odd())
    assert len(html.pictures()) >= 9 and "No metrics" in html.words()


@pytest.mark.slow
def test_the_page_needs_nothing_from_elsewhere_and_is_small(reported):
    """Noise is what JPEG likes least."""
    rng = np.random.default_rng(0)

    def noisy():
        for topic, kind, log_ns, msg in recorded([FUSED] * 12 + [HELD] * 3 + [DROPPED] + [FUSED] * 12):
            if topic in ("/front/image_raw", "/fused/image"):
                pixels = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
                msg = TYPES.types[IMAGE](msg.header, 480, 640, "rgb8", 0, 1920, pixels.reshape(-1))
            yield topic, kind, log_ns, msg

    summary, html = reported(noisy())
    assert summary.page.stat().st_size < 3_000_000
    links = [
        e.get(name) for e in html.root.iter() for name in ("src", "href", "data", "action") if e.get(name)
    ]
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search(r"https?:|@import|url\(", html.text)
    policy = html.all("meta[@http-equiv='Content-Security-Policy']")[0].get("content")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert {e.tag for e in html.root.iter()}.isdisjoint(
        {"script", "link", "iframe", "object", "form", "video"}
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_colour_by_day_and_by_night(mode):
    css = render("", "", [])
    assert len(re.findall(rf"--{mode}: #\w+;", css)) == 2
    for element, property_ in (("rect", "fill"), (":not(rect)", "background")):
        assert re.search(rf"{re.escape(element)}\.{mode} {{\s*{property_}: var\(--{mode}\);", css)


# --- long recordings


def drawn(strip):
    """The strip as the page draws it."""
    html = render("", "", [Section("", "", "", strips=[strip])])
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>")).find(".//svg")


def test_one_frame_in_a_hundred_thousand_is_seen():
    times_s = np.arange(100_000) / 30
    modes = np.zeros(100_000, int)
    modes[61_803] = PASSTHROUGH
    spike = np.full(100_000, 20.0)
    spike[61_803] = 250.0
    svg = drawn(mode_strip(times_s, modes, ["", OLD], (modes > 0).astype(int), times_s[-1]))
    (rect,) = svg.findall("rect[@class='PASSTHROUGH']")
    assert int(rect.get("x")) <= 618 < int(rect.get("x")) + int(rect.get("width"))
    assert int(rect.get("width")) >= NARROWEST and OLD in rect.find("title").text
    assert list(svg).index(rect) == len(svg) - 1  # in front of what was fused
    assert len(ElementTree.tostring(svg)) < 2_000

    strip = curve_strip("latency", "", "ms", times_s, [spike], times_s[-1])
    svg = drawn(strip)
    points = [
        tuple(map(float, point.split(",")))
        for point in re.findall(r"[\d.]+,[\d.]+", svg.find("path").get("d"))
    ]
    peak = min(points, key=lambda point: point[1])
    assert peak[0] == pytest.approx(618.5, abs=1) and peak[1] < 5
    assert sorted(y for _, y in points)[len(points) // 20] > 80
    assert strip.high == "250 ms" and len(ElementTree.tostring(svg)) < 60_000


def test_a_curve_breaks_where_nothing_came():
    times_s = np.concatenate([np.arange(100), np.arange(200, 300)]) / 30
    values = np.ones(200)
    values[150:170] = np.nan
    svg = drawn(curve_strip("skew", "", "ms", times_s, [values], 10.0))
    assert svg.find("path").get("d").count("M") == 3


def test_a_long_recording_is_read_in_bounded_pieces(tmp_path):
    """8,000 statuses, one image at each thousandth; one frame was dropped."""

    def stream():
        for n in range(8_000):
            stamp_ns = START_NS + n * PERIOD_NS
            mode = DROPPED if n == 4_321 else FUSED
            if n % 1000 == 0:
                yield "/fused/image", IMAGE, stamp_ns, image(stamp_ns, scene(n)[0], "rgb8")
            yield (
                "/fused/status",
                STATUS,
                stamp_ns + 1,
                status(stamp_ns, mode, "", stamp_ns + SKEW_NS, fused=n + 1),
            )

    bag = write_bag(tmp_path / "bag", stream(), types=TYPES)
    html = Page(report(bag, tmp_path / "report.html").page)
    ((left, right, tip),) = html.bars("DROPPED")
    assert left <= 4_321 / 8_000 <= right and tip.startswith("DROPPED, 1 frame from 2:22.6")
    assert len(html.text) < 400_000


# --- folders, and what cannot be reported on


def test_a_folder_of_pictures_has_a_sheet_and_metrics_but_no_timeline(tmp_path):
    for n in range(6):
        rgb, thermal = scene(n)
        fused = (
            np.full_like(rgb, 128) if n == 3 else np.maximum(rgb, (thermal // 12).astype(np.uint8)[..., None])
        )
        for kind, pixels in (("rgb", rgb), ("thermal", thermal), ("fused", fused)):
            (tmp_path / "drive" / kind).mkdir(parents=True, exist_ok=True)
            if (kind, n) != ("fused", 5):
                cv2.imwrite(str(tmp_path / "drive" / kind / f"{n:03}.png"), pixels)
    summary = report(tmp_path / "drive", tmp_path / "report.html")
    html = Page(summary.page)
    assert summary.headline == "5 of 6 pictures fused" and summary.modes == {}
    assert "005: not in fused" in html.words(html.all("ul[@class='notes']")[0])
    assert not html.all("svg") and len(html.cards("sheet")) == 5
    assert len(html.all("table[@class='scores']/tbody/tr")) == 4
    assert "003" in html.words(html.cards("worst")[0])  # grey kept no edge


def test_a_folder_of_recordings_has_a_row_and_a_section_each(tmp_path):
    for name, modes in (("one", [FUSED] * 6), ("two", [FUSED] * 4 + [HELD] * 2)):
        write_bag(tmp_path / "bags" / name, in_order(recorded(modes, {4: LATE})), types=TYPES)
    raw = [entry for entry in recorded([FUSED] * 3) if not entry[0].startswith("/fused")]
    write_bag(tmp_path / "bags" / "raw", in_order(raw), types=TYPES)
    summary = report(tmp_path / "bags", tmp_path / "out" / "report.html")
    html = Page(summary.page)
    assert summary.headline == "2 recordings: 10 of 12 frames fused; 1 could not be used"
    rows = [[html.words(cell) for cell in row] for row in html.all("table[@class='overview']/tbody/tr")]
    assert [row[:4] for row in rows[:2]] == [["one", "6", "6", "0"], ["two", "6", "4", "2"]]
    assert rows[2][0] == "raw" and "fuse-bag" in rows[2][1]
    targets = {element.get("id") for element in html.root.iter() if element.get("id")}
    assert {a.get("href")[1:] for a in html.all("a")} <= targets and {"s1", "s2"} <= targets


def test_what_cannot_be_reported_on_is_named_with_its_cure(tmp_path):
    raw = [entry for entry in recorded([FUSED] * 3) if not entry[0].startswith("/fused")]
    bag = write_bag(tmp_path / "raw", in_order(raw), types=TYPES)
    with pytest.raises(BagError, match="run fusionproxy fuse-bag on it first, or record fused/status"):
        report(bag, tmp_path / "report.html")
    with pytest.raises(BagError, match="no such"):
        report(tmp_path / "nowhere", tmp_path / "report.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="neither a recording"):
        report(tmp_path / "empty", tmp_path / "report.html")
    (tmp_path / "half" / "fused").mkdir(parents=True)
    with pytest.raises(ReportError, match="rgb: no such folder"):
        report(tmp_path / "half", tmp_path / "report.html")
    sound = write_bag(tmp_path / "sound", in_order(recorded([FUSED] * 3)), types=TYPES)
    with pytest.raises(ReportError, match="cannot be written"):
        report(sound, tmp_path)


# --- in a browser


def in_browser(path, *widths_px):
    """The page in frames of these widths, laid out by Chromium.

    Of each frame by how many pixels it overflows sideways and how many images it cannot show; then what was fetched
    beside the page, and what the console said.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    frames = "".join(f"<iframe src={path.name} width={width} height=900></iframe>" for width in widths_px)
    (path.parent / "harness.html").write_text(
        f"""<link rel=icon href=data:,><body>{frames}<pre></pre><script>onload = () => {{
        const frames = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument);
        document.querySelector("pre").textContent = JSON.stringify(frames.map(page => [
            page.documentElement.scrollWidth - page.documentElement.clientWidth,
            [...page.images].filter(image => !image.naturalWidth).length]))}}</script>"""
    )
    asked = set()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.add(self.path)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=path.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += [f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
        url = f"http://127.0.0.1:{server.server_port}/harness.html"
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=90)
        server.shutdown()
    measured = json.loads(re.search(r"<pre>(.+?)</pre>", done.stdout)[1])
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return measured, asked - {"/harness.html", f"/{path.name}"}, console


def test_a_browser_shows_it_whole_on_phone_and_desk_and_fetches_nothing(tmp_path, reported):
    modes = [FUSED] * 10 + [HELD] * 4 + [PASSTHROUGH, REFUSED, DROPPED] + [FUSED] * 12
    long = dict.fromkeys(range(10, 17), "a_reason_without_any_space_" * 12)
    summary, html = reported(recorded(modes, long, debug=True, misalignment_x_px=3.0, misalignment_y_px=0.0))
    frames, fetched, console = in_browser(summary.page, 400, 1200)
    assert html.pictures() and frames == [[0, 0], [0, 0]]
    assert not fetched and not console

    # The same check sees a page that is too wide, fetches, and complains.
    bad = tmp_path / "bad.html"
    bad.write_text("<p style='width:2000px'>wide</p><img src=no.png><script>console.error('no')</script>")
    ((overflow_px, broken),), fetched, console = in_browser(bad, 400)
    assert overflow_px > 1500 and broken == 1 and fetched == {"/no.png"} and console
