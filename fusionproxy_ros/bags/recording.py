"""Reads rosbag2 recordings, sqlite3 and MCAP, whole, split, compressed or damaged: message bytes in order of time.

rosbags reads what is sound; salvage reads the rest of a file that is not, and says where it is broken.
"""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat, Qos
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from fusionproxy_ros.bags.salvage_mcap import McapSalvage
from fusionproxy_ros.bags.salvage_sqlite import SqliteSalvage, missing_bytes
from fusionproxy_ros.bags.storage import BagError, Damage, StorageReader, Stored, zstd
from fusionproxy_ros.core.errors import shown

STATUS = "fusionproxy_ros/msg/FusionStatus"
STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}


@dataclass(frozen=True)
class Topic:
    """One topic of a recording.

    type: such as sensor_msgs/msg/Image. definition: its text, empty where the recording has none; digest: RIHS01 hash.
    count: messages, as far as the recording says. qos: profiles that its publishers offered.
    """

    name: str
    type: str
    definition: str = ""
    digest: str = ""
    count: int = 0
    qos: tuple[Qos, ...] = ()


@dataclass(frozen=True, eq=False)
class Message:
    """log_ns: when it was recorded. data: its CDR bytes."""

    topic: Topic
    log_ns: int
    data: bytes


@dataclass(eq=False)
class _OpenFile:
    """A storage file, read by rosbags as far as it is sound, and then by a salvage."""

    path: Path
    reader: StorageReader
    is_damaged: bool


class Recording:
    """A recording, open for reading. Use it in a `with` statement.

    path: a rosbag2 folder, with metadata.yaml or without (a recorder that was killed), or one .mcap or .db3 file.
    storage: "mcap" or "sqlite3".
    topics: by name. start_ns, end_ns: of the first and the last message, as far as its files say; 0 without messages.
    damage: what could not be read. It grows while messages are read, and is whole after the last.

    Raises BagError where nothing can be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.damage: list[Damage] = []
        self._stack = ExitStack()
        self._by_message = False  # each message is compressed
        try:
            self._open_files = [self._open(file) for file in self._files()]
            self.storage = STORAGES[self._open_files[0].path.suffix]
            self.topics: dict[str, Topic] = {}
            for connection in (c for file in self._open_files for c in file.reader.connections):
                topic = _topic(connection)
                known = self.topics.get(topic.name, replace(topic, count=0))
                if known.type != topic.type:
                    raise BagError(f"{path}: {topic.name} carries both {known.type} and {topic.type}")
                self.topics[topic.name] = replace(known, count=known.count + topic.count)
        except BaseException:
            self._stack.close()
            raise
        readers = [file.reader for file in self._open_files]
        spans = [(reader.start_time, reader.end_time - 1) for reader in readers if reader.end_time]
        self.start_ns = min((start for start, _ in spans), default=0)
        self.end_ns = max((end for _, end in spans), default=0)

    @cached_property
    def types(self) -> Typestore:
        """What its messages are decoded by; a tenth of a second, which replaying them does not need."""
        return typestore(self.topics.values())

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def messages(self, names: Collection[str] | None = None, start_ns: int = 0) -> Iterator[Message]:
        """Those of the named topics (all if not given) from start_ns on, file by file in order of log_ns."""
        for file in self._open_files:
            for connection, log_ns, data in self._sound_then_rest(file, names, start_ns):
                try:
                    data = zstd.decompress(data) if self._by_message else bytes(data)
                except zstd.ZstdError as error:
                    where = f"{connection.topic} at log time {log_ns} ns"
                    self._add_damage(Damage(file.path, where, f"cannot be decompressed: {error}"))
                    continue
                if topic := self.topics.get(connection.topic):  # else its name is damaged
                    yield Message(topic, log_ns, data)

    def decode(self, message: Message) -> Any:
        """The message as rosbags' dataclass, whose fields are named as in ROS. Raises BagError, noting the damage."""
        try:
            # Of a copy that may be written to, as ROS's own messages may.
            return self.types.deserialize_cdr(memoryview(bytearray(message.data)), message.topic.type)
        except Exception as error:  # whatever the library meets in damaged bytes
            where = f"{message.topic.name} at log time {message.log_ns} ns"
            damage = Damage(self.path, where, f"is no {message.topic.type}: {shown(str(error))}")
            self._add_damage(damage)
            raise BagError(str(damage)) from error

    def _sound_then_rest(
        self, file: _OpenFile, names: Collection[str] | None, start_ns: int
    ) -> Iterator[Stored]:
        """A file's messages; where its reader breaks off, what can be salvaged from there on."""

        def wanted() -> list[Connection]:
            return [c for c in file.reader.connections if names is None or c.topic in names]

        last_ns = start_ns
        seen: Counter[str] = Counter()  # messages by topic with the last stamp
        try:
            for connection, log_ns, data in file.reader.messages(wanted(), start=start_ns or None):
                if log_ns != last_ns:
                    last_ns = log_ns
                    seen.clear()
                seen[connection.topic] += 1
                yield connection, log_ns, data
            return
        except Exception:  # of many kinds, in damaged bytes
            if file.is_damaged:
                raise
        file.reader, file.is_damaged = self._salvage(file.path), True
        for connection, log_ns, data in file.reader.messages(wanted(), start=last_ns):
            if log_ns == last_ns and seen[connection.topic]:
                seen[connection.topic] -= 1
                continue
            yield connection, log_ns, data

    def _files(self) -> list[Path]:
        """The storage files, in order."""
        if self.path.is_file():
            files = [self.path]
        elif self.path.is_dir():
            files = self._listed() or sorted(
                (p for p in self.path.iterdir() if p.suffix in STORAGES), key=lambda p: _natural(p.name)
            )
        else:
            raise BagError(f"{self.path}: no such recording")
        found = [file for file in files if file.is_file()]
        for file in set(files) - set(found):
            self._add_damage(Damage(file, "offset 0", "the file is missing"))
        if not found:
            raise BagError(
                f"{self.path}: no .mcap or .db3 file in it: give a folder that ros2 bag record has made"
            )
        return found

    def _listed(self) -> list[Path]:
        """The files that metadata.yaml names; none where it is missing or damaged."""
        try:
            text = (self.path / "metadata.yaml").read_text()
            about = yaml.safe_load(text)["rosbag2_bagfile_information"]
            files = [self.path / Path(name).name for name in about["relative_file_paths"]]
            mode = (about.get("compression_mode") or "").lower()
            if mode not in ("", "none", "storage") and about.get("compression_format") != "zstd":
                raise BagError(
                    f"{self.path}: compressed as {shown(str(about.get('compression_format')))}; this reads zstd"
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            return []
        self._by_message = mode == "message"
        return files

    def _open(self, file: Path) -> _OpenFile:
        if file.suffix == ".zstd":
            file = self._unpacked(file)
        if file.suffix not in STORAGES:
            raise BagError(f"{file}: neither .mcap nor .db3")
        if file.suffix == ".db3" and missing_bytes(file):
            return _OpenFile(file, self._salvage(file), is_damaged=True)
        try:
            reader = Reader(file)
            reader.open()
        except Exception:  # of many kinds, in damaged bytes
            return _OpenFile(file, self._salvage(file), is_damaged=True)
        self._stack.callback(reader.close)
        return _OpenFile(file, reader, is_damaged=False)

    def _unpacked(self, file: Path) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fusionproxy_")))
        unpacked = folder / file.stem
        try:
            with zstd.open(file, "rb") as packed, unpacked.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (zstd.ZstdError, EOFError) as error:  # what came before can be read
            self._add_damage(Damage(file, f"offset {unpacked.stat().st_size} when unpacked", str(error)))
        return unpacked

    def _salvage(self, file: Path) -> StorageReader:
        reader = (McapSalvage if file.suffix == ".mcap" else SqliteSalvage)(file, self._add_damage)
        self._stack.callback(reader.close)
        return reader

    def _add_damage(self, damage: Damage) -> None:
        if damage not in self.damage:  # a recording may be read twice
            self.damage.append(damage)


def _natural(name: str) -> list[int | str]:
    """Sorts drive_2 before drive_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _topic(connection: Connection) -> Topic:
    definition = connection.msgdef.data if connection.msgdef.format != MessageDefinitionFormat.NONE else ""
    assert isinstance(connection.ext, ConnectionExtRosbag2)  # rosbags has another for ROS 1
    qos = tuple(connection.ext.offered_qos_profiles)
    return Topic(
        connection.topic, connection.msgtype, definition, connection.digest, connection.msgcount, qos
    )


def typestore(topics: Iterable[Topic] = ()) -> Typestore:
    """ROS's own types, our status, and those that only these topics define."""
    store = get_typestore(Stores.ROS2_KILTED)
    for topic in topics:
        if not topic.definition or topic.type in store.types:
            continue
        try:
            if topic.definition.startswith("=" * 80 + "\nIDL: "):
                found = get_types_from_idl(topic.definition)
            else:
                found = get_types_from_msg(topic.definition, topic.type)
            store.register({name: fields for name, fields in found.items() if name not in store.types})
        except Exception:  # a type that nobody decodes; its bytes can still be copied
            continue
    if STATUS not in store.types:
        store.register(get_types_from_msg(_status_definition(), STATUS))
    return store


def _status_definition() -> str:
    """The text of FusionStatus.msg, from the source tree or where it was installed."""
    for folder in Path(__file__).resolve().parents:
        for found in (folder / "msg", folder / "share" / "fusionproxy_ros" / "msg"):
            if (found / "FusionStatus.msg").is_file():
                return (found / "FusionStatus.msg").read_text()
    raise BagError("share/fusionproxy_ros/msg/FusionStatus.msg is missing: install the package again")
