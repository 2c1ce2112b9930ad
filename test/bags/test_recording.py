"""Recordings are read whole where they are sound, and as far as they are sound where they are not."""

import shutil
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType
from recordings import IMAGE, STRING, TYPES, camera_stream, image, string, textures, write_bag, write_mcap
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fusionproxy_ros.bags.recording import Recording, Topic
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.bags.writing import BagWriter


def read(path, names=None, **where):
    with Recording(path) as recording:
        found = [(m.topic.name, m.log_ns, m.data) for m in recording.messages(names, **where)]
        return found, recording.damage


def texts(count=40, size=3000):
    """A stream of long strings on two topics; each says where it stands."""
    for n in range(count):
        yield f"/{'ab'[n % 2]}", STRING, 1000 + n, string(f"{n:06d}" + "x" * size)


def expected(stream):
    return [
        (topic, log_ns, bytes(TYPES.serialize_cdr(message, kind))) for topic, kind, log_ns, message in stream
    ]


@pytest.mark.parametrize("compression", ["NONE", "MESSAGE", "FILE"])
@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_every_storage_and_compression_gives_the_same_messages(tmp_path, storage, compression):
    bag = write_bag(tmp_path / "bag", texts(), storage, compression)
    assert read(bag) == (expected(texts()), [])
    (only_a, _), late = read(bag, ["/a"]), read(bag, start_ns=1030)[0]
    assert only_a == expected(texts())[::2] and late == expected(texts())[30:]
    with Recording(bag) as recording:
        assert (recording.start_ns, recording.end_ns) == (1000, 1039)
        assert {t.name: (t.type, t.count) for t in recording.topics.values()} == {
            "/a": (STRING, 20),
            "/b": (STRING, 20),
        }
        first = next(recording.messages())
        assert recording.decode(first).data.startswith("000000")


@pytest.mark.parametrize("compression", CompressionType)
def test_what_the_mcap_library_writes_is_read(tmp_path, compression):
    assert read(write_mcap(tmp_path / "x.mcap", texts(), compression)) == (expected(texts()), [])


def test_a_folder_whose_recorder_was_killed_before_it_wrote_metadata_is_read(tmp_path):
    for n in (10, 2):  # drive_2 comes before drive_10
        write_bag(tmp_path / f"drive_{n}", [(t, k, ns + 1000 * n, m) for t, k, ns, m in texts()])
    folder = tmp_path / "drive"
    folder.mkdir()
    for n in (10, 2):
        shutil.move(tmp_path / f"drive_{n}" / f"drive_{n}.mcap", folder)
    found, damage = read(folder)
    assert [log_ns for _, log_ns, _ in found] == [*range(3000, 3040), *range(11000, 11040)]
    assert not damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_written_opens_in_other_libraries_and_unchanged(tmp_path, storage):
    stream = expected(texts())
    topics = [Topic("/a", STRING), Topic("/b", STRING)]
    with BagWriter(tmp_path / "out", storage, "none", topics, TYPES, {}, part_bytes=30_000) as writer:
        for name, log_ns, data in stream:
            writer.write(name, log_ns, data)
            writer.may_part()
        writer.finish()
    files = sorted((tmp_path / "out").glob("out_*"), key=lambda file: int(file.stem.split("_")[1]))
    assert len(files) == 4
    by_others = []
    for file in files:
        if storage == "mcap":
            with file.open("rb") as opened:
                by_others += [
                    (c.topic, m.log_time, m.data) for _, c, m in make_reader(opened).iter_messages()
                ]
        else:
            query = "SELECT name, timestamp, data FROM messages JOIN topics ON topic_id = topics.id"
            by_others += list(sqlite3.connect(file).execute(query + " ORDER BY messages.id"))
    assert by_others == stream
    with Reader(tmp_path / "out") as reader:  # which wants metadata.yaml to be right
        assert [(c.topic, ns, bytes(data)) for c, ns, data in reader.messages()] == stream
        assert (reader.message_count, reader.start_time, reader.duration) == (40, 1000, 40)
    assert read(tmp_path / "out") == (stream, [])


def test_a_message_of_a_type_that_only_the_recording_defines_is_decoded(tmp_path):
    types = get_typestore(Stores.ROS2_KILTED)
    types.register(get_types_from_msg("std_msgs/Header header\nfloat64 heat", "mine/msg/Heat"))
    heat = types.types["mine/msg/Heat"](image(5, np.zeros((1, 1), np.uint8), "mono8").header, 36.6)
    bag = write_bag(tmp_path / "bag", [("/heat", "mine/msg/Heat", 7, heat)], types=types)
    with Recording(bag) as recording:
        assert recording.decode(next(recording.messages())).heat == 36.6


# --- damage -----------------------------------------------------------------------------------------------------


def chunks_of(file):
    """Offset and length of every chunk record."""
    with file.open("rb") as opened:
        return [
            (c.chunk_start_offset, c.chunk_length) for c in make_reader(opened).get_summary().chunk_indexes
        ]


@pytest.mark.parametrize("compression", CompressionType)
def test_a_chunk_with_a_wrong_checksum_costs_its_own_messages_and_its_offset_is_named(tmp_path, compression):
    file = write_mcap(tmp_path / "x.mcap", texts(), compression, chunk_bytes=12_000)
    offset, length = chunks_of(file)[2]
    data = bytearray(file.read_bytes())
    data[offset + length - 20] ^= 0xFF
    file.write_bytes(data)
    found, damage = read(file)
    lost = [m for m in expected(texts()) if m not in found]
    assert found == [m for m in expected(texts()) if m in found] and 0 < len(lost) <= 5
    assert len(damage) == 1 and f"offset {offset}" in str(damage[0]) and str(file) in str(damage[0])


def test_a_record_whose_length_is_wrong_does_not_hide_what_follows(tmp_path):
    file = write_mcap(tmp_path / "x.mcap", texts(), chunk_bytes=12_000)
    offset, _ = chunks_of(file)[2]
    data = bytearray(file.read_bytes())
    data[offset + 1 : offset + 9] = (1 << 50).to_bytes(8, "little")
    file.write_bytes(data[: chunks_of(file)[-1][0]])  # and the index is cut off
    found, damage = read(file)
    texts_there = [m for m in expected(texts()) if m in found]
    assert found == texts_there and len(found) >= 30
    assert any(f"offset {offset}" in str(d) for d in damage)


def test_what_only_looks_like_a_chunk_is_not_taken_for_one(tmp_path):
    """After a lost chunk the next is looked for in bytes that may hold anything, black pictures for one."""
    decoy = "\x06" + "\x10" + 60 * "\0"
    stream = [(t, k, ns, string(f"{n:06d}" + decoy * 40)) for n, (t, k, ns, _) in enumerate(texts())]
    file = write_mcap(tmp_path / "x.mcap", stream, chunk_bytes=12_000)
    offset, _ = chunks_of(file)[2]
    data = bytearray(file.read_bytes())
    data[offset + 1 : offset + 9] = (70_000).to_bytes(8, "little")  # leads into a later chunk
    file.write_bytes(data[: chunks_of(file)[-1][0]])
    found, damage = read(file)
    in_chunks = [m for m in expected(stream) if m in found]
    assert found == in_chunks and len(found) >= 30
    assert f"offset {offset}: no record begins here" in str(damage[0])


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4])
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_a_file_cut_off_anywhere_gives_every_whole_message_before_the_cut(
    tmp_path_factory, compression, share
):
    file = write_mcap(tmp_path_factory.mktemp("cut") / "x.mcap", texts(), compression, chunk_bytes=12_000)
    whole = file.read_bytes()
    cut = int(len(whole) * share)
    file.write_bytes(whole[:cut])
    found, damage = read(file)
    assert found == expected(texts())[: len(found)]
    if compression is CompressionType.NONE:  # else a message ends somewhere in the packed bytes
        first_lost = len(found)
        assert first_lost == 40 or whole.find(f"{first_lost:06d}xxx".encode()) + 3006 > cut
    assert damage and all(int(str(d).split("offset ")[1].split(":")[0]) <= cut for d in damage)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.999))
def test_a_database_cut_off_anywhere_gives_rows_that_are_all_right_and_names_the_cut(tmp_path_factory, share):
    bag = write_bag(tmp_path_factory.mktemp("cut") / "bag", texts(), "SQLITE3")
    file = bag / "bag.db3"
    whole = file.read_bytes()
    cut = int(len(whole) * share)
    file.write_bytes(whole[:cut])
    found, damage = read(bag)
    assert all(m in expected(texts()) for m in found) and len({m[1] for m in found}) == len(found)
    assert len(found) >= 40 * (
        share - 0.3
    )  # each row lies in pages of its own, in order, behind the schema's
    assert any(f"offset {cut}: the file ends here, of {len(whole)} bytes" in str(d) for d in damage)


@pytest.mark.slow
def test_a_database_with_a_page_of_garbage_gives_the_other_rows(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(400), "SQLITE3")
    file = bag / "bag.db3"
    data = bytearray(file.read_bytes())
    leaf = data.find(b"000200xxx") // 4096 * 4096  # the page that holds the beginning of row 201
    data[leaf : leaf + 4096] = bytes(4096)
    file.write_bytes(data)
    found, damage = read(bag)
    assert 380 <= len(found) < 400 and all(m in expected(texts(400)) for m in found)
    assert "row 2" in str(damage[0]) or "row 19" in str(damage[0])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 30))
def test_whatever_bytes_are_flipped_reading_ends_and_raises_nothing_of_its_own(tmp_path_factory, seed, flips):
    rng = np.random.default_rng(seed)
    file = write_mcap(tmp_path_factory.mktemp("x") / "x.mcap", texts(10, 300), chunk_bytes=1000)
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    data[rng.integers(0, len(data), flips)] = rng.integers(0, 256, flips)
    file.write_bytes(data.tobytes())
    try:
        with Recording(file) as recording:
            for message in recording.messages():
                try:
                    recording.decode(message)
                except BagError as error:
                    assert "log time" in str(error)
    except BagError as error:
        assert str(file) in str(error)


def test_a_missing_part_is_named_and_the_others_are_read(tmp_path):
    topics = [Topic("/a", STRING), Topic("/b", STRING)]
    with BagWriter(tmp_path / "out", "mcap", "none", topics, TYPES, {}, part_bytes=30_000) as writer:
        for name, log_ns, data in expected(texts()):
            writer.write(name, log_ns, data)
            writer.may_part()
        writer.finish()
    (tmp_path / "out" / "out_1.mcap").unlink()
    found, damage = read(tmp_path / "out")
    assert len(found) == 30 and "out_1.mcap" in str(damage[0]) and "missing" in str(damage[0])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no such recording"),
        (lambda path: path.mkdir(), "no .mcap or .db3 file in it"),
        (lambda path: path.write_text("hello"), "neither .mcap nor .db3"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(tmp_path, make, told):
    make(tmp_path / "x")
    with pytest.raises(BagError, match=told):
        Recording(tmp_path / "x")


def test_images_survive_reading_to_the_last_byte(tmp_path):
    pairs = textures(3)
    bag = write_bag(tmp_path / "bag", camera_stream(pairs))
    with Recording(bag) as recording:
        for message, (rgb, _) in zip(recording.messages(["/rgb/image_raw"]), pairs, strict=True):
            msg = recording.decode(message)
            assert (msg.height, msg.width, msg.encoding) == (96, 128, "rgb8")
            np.testing.assert_array_equal(msg.data, rgb.reshape(-1))
            assert message.topic.type == IMAGE
