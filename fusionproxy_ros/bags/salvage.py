"""Reads what is left of a damaged storage file, and says where it is broken."""

import mmap
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path

import apsw
import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

from fusionproxy_ros.bags import zstd

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # opcode, length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; then the data
# First and last log time, length and CRC when unpacked; then the name of the compression.
CHUNK = struct.Struct("<QQQI")
# Where the framing is lost: a chunk's opcode, a length below 2^40, and what follows its 28 fixed bytes.
CHUNK_AHEAD = re.compile(rb"\x06.{5}\x00{3}.{28}(?:\x00{4}|\x03\x00{3}lz4|\x04\x00{3}zstd)", re.DOTALL)
DECOMPRESSORS = {b"lz4": lz4.frame.LZ4FrameDecompressor, b"zstd": zstd.ZstdDecompressor}
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
MISSES = 2000  # rows one after the other that cannot be read, after which there are no more


@dataclass(frozen=True)
class Damage:
    """A place in a file that cannot be read. where: its offset in bytes, or the row of a database."""

    file: Path
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.what}"


class McapSalvage:
    """Looks a damaged MCAP file through once, reports every damage, and gives the messages of what is sound.

    A chunk whose checksum is wrong is left out whole: nobody knows which of its messages is wrong.
    connections: as rosbags' readers have them. start_time, end_time: of the first message, and after the last; 0: none.
    """

    def __init__(self, path: Path, report: Callable[[Damage], None]):
        self.path, self._report = path, report
        self.connections: list[Connection] = []
        self.start_time, self.end_time = 0, 0
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Connection] = {}
        self._file = path.open("rb")
        self._data = (
            mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        )
        self._places: list[tuple[int, int]] = []  # offset and length of what holds messages
        counts, stamps = Counter(), []
        for place in self._sound_places():
            found = [(channel, log_ns) for channel, log_ns, _ in self._messages_at(*place)]
            if found:
                self._places.append(place)
                counts.update(channel for channel, _ in found)
                stamps += (log_ns for _, log_ns in found)
        if stamps:
            self.start_time, self.end_time = min(stamps), max(stamps) + 1
        self.connections = [c._replace(msgcount=counts[c.id]) for c in self._channels.values()]

    def close(self) -> None:
        if self._data:
            self._data.close()
        self._file.close()

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[tuple]:
        """(connection, log_ns, data) from `start` on, in the order of the file and of time within a chunk."""
        wanted = {c.id: c for c in connections}
        for place in self._places:
            for channel, log_ns, data in sorted(self._messages_at(*place), key=lambda message: message[1]):
                if channel in wanted and log_ns >= (start or 0):
                    yield wanted[channel], log_ns, data

    def _sound_places(self) -> Iterator[tuple[int, int]]:
        """Every chunk, and every message that is in no chunk. What is broken is reported and skipped."""
        at, end = len(MAGIC), len(self._data)
        if self._data[:at] != MAGIC:
            self._damaged(0, "this is not how an MCAP file begins")
        while at + RECORD.size <= end:
            opcode, length = RECORD.unpack_from(self._data, at)
            size = RECORD.size + length
            if opcode == Opcode.FOOTER and self._data[at + size :] == MAGIC:
                return
            known = 0 < opcode <= Opcode.DATA_END and at + size <= end
            if not known or (opcode == Opcode.CHUNK and not self._is_chunk(at)):
                ahead = self._next_chunk(at + 1)
                if opcode == Opcode.CHUNK and not self._is_wrong(
                    at, ahead - at
                ):  # cut off, or of a wrong length
                    yield at, ahead - at
                self._damaged(at, "the file ends in this record" if ahead == end else "no record begins here")
                if ahead == end:
                    return
                at = ahead
                continue
            if opcode == Opcode.CHUNK and self._is_wrong(at, size):
                self._damaged(
                    at, f"a chunk of {size} bytes does not unpack to what its checksum says: left out"
                )
            elif opcode in (Opcode.CHUNK, Opcode.MESSAGE):
                yield at, size
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._learn(opcode, self._data[at + RECORD.size : at + size])
            at += size
        self._damaged(end, "the file ends here without a footer")

    def _is_chunk(self, at: int) -> bool:
        """Whether the lengths in a chunk agree with each other; its end may be missing."""
        head = self._data[at : at + RECORD.size + CHUNK.size + 4]
        if len(head) < RECORD.size + CHUNK.size + 4:
            return False
        name_size = int.from_bytes(head[-4:], "little")
        size_at = at + len(head) + min(name_size, 8)
        packed = int.from_bytes(self._data[size_at : size_at + 8], "little")
        return RECORD.unpack_from(head)[1] == CHUNK.size + 4 + name_size + 8 + packed

    def _next_chunk(self, at: int) -> int:
        """Where the next chunk begins; the file's end where there is none."""
        matches = (match.start() for match in CHUNK_AHEAD.finditer(self._data, at))
        return next(filter(self._is_chunk, matches), len(self._data))

    def _is_wrong(self, at: int, size: int) -> bool:
        """Whether what a chunk unpacks to is not what was written. Of one that is cut off nobody knows."""
        if at + RECORD.size + CHUNK.size > len(self._data):
            return True
        _, _, unpacked, crc = CHUNK.unpack_from(self._data, at + RECORD.size)
        data = self._unpacked(at, size)[:unpacked]
        if len(data) < unpacked:
            return at + RECORD.size + RECORD.unpack_from(self._data, at)[1] <= len(self._data)
        return crc != 0 and zlib.crc32(data) != crc

    def _unpacked(self, at: int, size: int) -> bytes:
        """A chunk's records, as far as they are there."""
        name_at = at + RECORD.size + CHUNK.size
        name_size = int.from_bytes(self._data[name_at : name_at + 4], "little")
        name = self._data[name_at + 4 : name_at + 4 + min(name_size, 8)]
        packed = self._data[name_at + 4 + name_size + 8 : at + size]
        if not name:
            return packed
        try:
            return DECOMPRESSORS[name]().decompress(packed)
        except (KeyError, RuntimeError, zstd.ZstdError, EOFError):
            return b""

    def _messages_at(self, at: int, size: int) -> Iterator[tuple[int, int, bytes]]:
        """(channel, log_ns, data) of a chunk or of one message; schemas and channels on the way are learnt."""
        records = self._unpacked(at, size) if self._data[at] == Opcode.CHUNK else self._data[at : at + size]
        at = 0
        while at + RECORD.size <= len(records):
            opcode, length = RECORD.unpack_from(records, at)
            body = records[at + RECORD.size : at + RECORD.size + length]
            if len(body) < length:
                return
            if opcode == Opcode.MESSAGE and length >= MESSAGE.size:
                channel, _, log_ns, _ = MESSAGE.unpack_from(body)
                if channel in self._channels:
                    yield channel, log_ns, body[MESSAGE.size :]
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._learn(opcode, body)
            at += RECORD.size + length

    def _learn(self, opcode: int, body: bytes) -> None:
        stream = ReadDataStream(BytesIO(body))
        try:
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                self._schemas[schema.id] = schema
                return
            channel = Channel.read(stream)
        except Exception:  # of a damaged record; its messages will be left out
            return
        schema = self._schemas.get(channel.schema_id)
        if schema and channel.id not in self._channels:
            definition = MessageDefinition(
                FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE),
                schema.data.decode(errors="replace"),
            )
            offered = ConnectionExtRosbag2(channel.message_encoding, [])
            self._channels[channel.id] = Connection(
                channel.id, channel.topic, schema.name, definition, "", 0, offered, self
            )

    def _damaged(self, offset: int, what: str) -> None:
        self._report(Damage(self.path, f"offset {offset}", what))


class _WholePages(apsw.VFS):
    """Files of which only whole pages are read: sqlite would take zeros for what is cut off."""

    NAME = "fusionproxy_whole_pages"

    class File(apsw.VFSFile):
        def xRead(self, amount: int, offset: int) -> bytes:
            data = super().xRead(amount, offset)
            if len(data) < amount:
                raise apsw.CorruptError(f"the file ends before offset {offset + amount}")
            return data

    def __init__(self):
        super().__init__(self.NAME, "")

    def xOpen(self, name, flags):
        return self.File("", name, flags)


class SqliteSalvage:
    """As McapSalvage, for a damaged sqlite3 file."""

    def __init__(self, path: Path, report: Callable[[Damage], None]):
        self.path, self._report = path, report
        self.connections: list[Connection] = []
        self.start_time, self.end_time = 0, 0
        self._rows: list[tuple[int, int]] = []  # first and last id of each run of sound rows
        self._pages = _WholePages()
        self._database = apsw.Connection(
            f"{path.resolve().as_uri()}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
            vfs=_WholePages.NAME,
        )
        # Else sqlite refuses a file that is shorter than it should be.
        self._database.execute("PRAGMA writable_schema=ON")
        if missing := missing_bytes(path):
            size = path.stat().st_size
            report(Damage(path, f"offset {size}", f"the file ends here, of {size + missing} bytes"))
        try:
            topics = list(self._database.execute("SELECT id, name, type FROM topics ORDER BY id"))
        except apsw.Error as error:
            report(Damage(path, "offset 0", f"its list of topics cannot be read: {error}"))
            return
        definitions = self._definitions()
        counts, stamps = Counter(), []
        for row, topic, log_ns in self._sound_rows():
            if self._rows and self._rows[-1][1] == row - 1:
                self._rows[-1] = self._rows[-1][0], row
            else:
                self._rows.append((row, row))
            counts[topic] += 1
            stamps = [min([*stamps, log_ns]), max([*stamps, log_ns])]
        if stamps:
            self.start_time, self.end_time = stamps[0], stamps[1] + 1
        offered = ConnectionExtRosbag2("cdr", [])
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        self.connections = [
            Connection(id, name, type, definitions.get(type, none), "", counts[id], offered, self)
            for id, name, type in topics
        ]

    def close(self) -> None:
        self._database.close()

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[tuple]:
        """(connection, log_ns, data) from `start` on, in the order of recording."""
        wanted = {c.id: c for c in connections}
        query = "SELECT topic_id, timestamp, data FROM messages WHERE id = ?"
        for row in chain.from_iterable(range(first, last + 1) for first, last in self._rows):
            ((topic, log_ns, data),) = self._database.execute(query, (row,))
            if topic in wanted and log_ns >= (start or 0):
                yield wanted[topic], log_ns, data

    def _definitions(self) -> dict[str, MessageDefinition]:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        try:  # since Iron
            return {t: MessageDefinition(FORMATS[e], d) for t, e, d in self._database.execute(query)}
        except (apsw.Error, KeyError):
            return {}

    def _sound_rows(self) -> Iterator[tuple[int, int, int]]:
        """(id, topic, log_ns) of every row whose data can be read, each run of others reported."""
        select = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
        row, misses = 0, 0
        while misses < MISSES:
            try:
                for found, topic, log_ns, data in self._database.execute(select, (row,)):
                    if found > row and isinstance(data, bytes):  # else the row is garbage
                        row, misses = found, 0
                        yield row, topic, log_ns
                return
            except apsw.Error as error:
                if not misses:
                    self._report(Damage(self.path, f"row {row + 1}", str(error).splitlines()[0]))
                # Step over it: what lies behind is reached by its own way through the tree.
                row, misses = row + 1, misses + 1


def missing_bytes(path: Path) -> int:
    """How much of a sqlite3 file is cut off, by its header. sqlite itself does not always mind."""
    with path.open("rb") as file:
        page, pages = struct.unpack(">16xH10xI68x", file.read(100).ljust(100, b"\0"))
    return max(0, (65536 if page == 1 else page) * pages - path.stat().st_size)


def salvage(path: Path, report: Callable[[Damage], None]) -> McapSalvage | SqliteSalvage:
    """A reader of what is left of a storage file, told from its name."""
    return (McapSalvage if path.suffix == ".mcap" else SqliteSalvage)(path, report)
