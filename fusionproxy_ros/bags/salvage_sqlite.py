"""Reads what is left of a damaged sqlite3 file, and says where it is broken."""

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

import apsw
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

from fusionproxy_ros.bags.storage import DEFINITION_FORMATS, Damage, Stored

MISSES = 2000  # rows one after the other that cannot be read, after which there are no more


class _WholePages(apsw.VFS):
    """Files of which only whole pages are read: sqlite would take zeros for what is cut off."""

    NAME = "fusionproxy_whole_pages"

    class File(apsw.VFSFile):
        def xRead(self, amount: int, offset: int) -> bytes:
            data = super().xRead(amount, offset)
            if len(data) < amount:
                raise apsw.CorruptError(f"the file ends before offset {offset + amount}")
            return data

    def __init__(self) -> None:
        super().__init__(self.NAME, "")

    def xOpen(self, name, flags):
        return self.File("", name, flags)


class SqliteSalvage:
    """Looks a damaged sqlite3 file through once, reports every damage, and gives the rows that can be read.

    connections, start_time, end_time: as McapSalvage has them.
    """

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
        counts: Counter[int] = Counter()
        stamps: list[int] = []
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

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[Stored]:
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
            return {
                t: MessageDefinition(DEFINITION_FORMATS[e], d) for t, e, d in self._database.execute(query)
            }
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
