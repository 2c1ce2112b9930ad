"""Reads what is left of a damaged MCAP file, and says where it is broken."""

import mmap
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from pathlib import Path

import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

from fusionproxy_ros.bags.storage import DEFINITION_FORMATS, Damage, Stored, zstd

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # opcode, length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; then the data
# First and last log time, length and CRC when unpacked; then the name of the compression.
CHUNK = struct.Struct("<QQQI")
# Where the framing is lost: a chunk's opcode, a length below 2^40, and what follows its 28 fixed bytes.
CHUNK_AHEAD = re.compile(rb"\x06.{5}\x00{3}.{28}(?:\x00{4}|\x03\x00{3}lz4|\x04\x00{3}zstd)", re.DOTALL)
DECOMPRESSORS = {b"lz4": lz4.frame.LZ4FrameDecompressor, b"zstd": zstd.ZstdDecompressor}


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
        self._data: mmap.mmap | bytes = b""
        if path.stat().st_size:  # nothing cannot be mapped
            self._data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places: list[tuple[int, int]] = []  # offset and length of what holds messages
        counts: Counter[int] = Counter()
        stamps: list[int] = []
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
        if isinstance(self._data, mmap.mmap):
            self._data.close()
        self._file.close()

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[Stored]:
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
        """Whether a chunk's checksum or length is wrong. False for one that is cut off, which cannot be checked."""
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
                DEFINITION_FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE),
                schema.data.decode(errors="replace"),
            )
            offered = ConnectionExtRosbag2(channel.message_encoding, [])
            self._channels[channel.id] = Connection(
                channel.id, channel.topic, schema.name, definition, "", 0, offered, self
            )

    def _damaged(self, offset: int, what: str) -> None:
        self._report(Damage(self.path, f"offset {offset}", what))
