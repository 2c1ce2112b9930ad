"""Writes a recording part by part, so that a process that was killed goes on after the last whole part.

The same messages give the same bytes. While it is written it is the folder NAME.unfinished; only what is whole is NAME.
"""

import json
import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys.store import Typestore
from ruamel.yaml import YAML

from fusionproxy_ros.bags.camera_topics import IMAGE
from fusionproxy_ros.bags.recording import Topic
from fusionproxy_ros.bags.storage import BagError

PART_BYTES = 512 << 20  # of messages; what a kill costs at most
VERSION: Final = 8  # of rosbag2's metadata; read from Iron on
FOREVER = QosTime(2147483647, 4294967295)
RELIABLE = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)
TRANSIENT = RELIABLE._replace(durability=QosDurability.TRANSIENT_LOCAL)  # of /tf_static


def image_message(types: Typestore, header: Any, pixels: np.ndarray, encoding: str) -> Any:
    """sensor_msgs/Image of (H, W) or (H, W, C) pixels, as a message of `types`."""
    pixels = np.ascontiguousarray(pixels)
    data = pixels.reshape(-1).view(np.uint8)
    message: Any = types.types[IMAGE]
    return message(header, *pixels.shape[:2], encoding, 0, pixels.strides[0], data)


class BagWriter:
    """A recording that is being written. Use it in a `with` statement; `finish` makes it whole.

    path: the folder that is to be; it must not exist. storage: "mcap" or "sqlite3".
    compression: "none", "message" or "file" (zstd). topics: all that will be written. types: of their messages.
    settings: what the messages depend on; a folder begun with others is refused.
    done: messages in whole parts, from an earlier run; write those that follow.

    Raises BagError.
    """

    def __init__(
        self,
        path: Path,
        storage: str,
        compression: str,
        topics: Sequence[Topic],
        types: Typestore,
        settings: dict,
        part_bytes: int = PART_BYTES,
    ):
        if path.exists():
            raise BagError(f"{path} exists already: choose another --out, or delete it")
        self.path, self._storage, self._compression = path, storage, compression
        self._topics, self._types, self._part_bytes = topics, types, part_bytes
        self._folder = path.with_name(path.name + ".unfinished")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check({"storage": storage, "compression": compression, "part_bytes": part_bytes, **settings})
        self._writer: Writer | None = None  # of the part that is begun
        self._bytes = 0  # of messages in it
        self._connections: dict[str, Connection] = {}
        self._parts = len(list(self._folder.glob("part_*[0-9]")))
        if self._is_whole:  # killed while it cleaned up
            self.done = _about(self._folder)["message_count"]
        else:
            self.done = sum(_about(self._part(n))["message_count"] for n in range(self._parts))

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer:
            self._writer.abort()

    def write(self, name: str, log_ns: int, data: bytes) -> None:
        """One message of a topic."""
        writer = self._writer or self._open()
        writer.write(self._connections[name], log_ns, data)
        self._bytes += len(data)

    def may_part(self) -> None:
        """Here a part may end: a run that goes on begins with the next message."""
        if self._writer and self._bytes >= self._part_bytes:
            self._close(self._writer)

    def finish(self) -> None:
        """All is written: the parts become one recording, as rosbag2 splits them."""
        if not self._is_whole:
            if self._writer or not self._parts:
                self._close(self._writer or self._open())
            whole = [_about(self._part(n)) for n in range(self._parts)]
            names = []
            for n, about in enumerate(whole):
                (made,) = about["relative_file_paths"]
                names.append(made.replace(f"part_{n}", f"{self.path.name}_{n}"))
                if (self._part(n) / made).exists():  # else moved by a run that was killed here
                    (self._part(n) / made).rename(self._folder / names[-1])
            _write_yaml(_joined(whole, names), self._folder / "metadata.new")
            (self._folder / "metadata.new").rename(self._folder / "metadata.yaml")
        for part in self._folder.glob("part_*"):
            shutil.rmtree(part)
        (self._folder / "settings.json").unlink()
        self._folder.rename(self.path)

    def _check(self, settings: dict) -> None:
        """Begin a folder, or see that it was begun with the same settings."""
        file = self._folder / "settings.json"
        for leftover in self._folder.glob("part_*.writing"):
            shutil.rmtree(leftover)
        settings = json.loads(json.dumps(settings))
        if not file.exists():
            file.with_suffix(".new").write_text(json.dumps(settings, indent=1))
            file.with_suffix(".new").rename(file)
            return
        begun = json.loads(file.read_text())
        different = [key for key in settings if begun.get(key) != settings[key]]
        if different:
            raise BagError(
                f"{self._folder} was begun with other settings ({', '.join(different)}): give those again to go on, "
                "or delete it to begin anew"
            )

    def _part(self, n: int) -> Path:
        return self._folder / f"part_{n}"

    @property
    def _is_whole(self) -> bool:
        return (self._folder / "metadata.yaml").exists()

    def _open(self) -> Writer:
        """Begin a part."""
        # The name goes into the files' names; the folder is renamed when it is whole.
        folder = self._folder / f"part_{self._parts}.writing" / f"part_{self._parts}"
        folder.parent.mkdir()
        writer = Writer(folder, version=VERSION, storage_plugin=StoragePlugin[self._storage.upper()])
        writer.set_compression(CompressionMode[self._compression.upper()], CompressionFormat.ZSTD)
        writer.open()
        self._writer = writer
        self._bytes = 0
        self._connections = {}
        for topic in self._topics:
            definition, digest = topic.definition, topic.digest
            if topic.type in self._types.types:
                definition = definition or self._types.generate_msgdef(topic.type, ros_version=2)[0]
                digest = digest or self._types.hash_rihs01(topic.type)
            self._connections[topic.name] = writer.add_connection(
                topic.name,
                topic.type,
                msgdef=definition,
                rihs01=digest or "RIHS01_" + 64 * "0",
                offered_qos_profiles=topic.qos or (RELIABLE,),
            )
        return writer

    def _close(self, writer: Writer) -> None:
        """End a part."""
        writer.close()
        folder, self._writer = writer.path, None
        folder.rename(self._part(self._parts))
        folder.parent.rmdir()
        self._parts += 1


def _about(folder: Path) -> dict:
    """What a recording's metadata.yaml says."""
    return YAML(typ="safe").load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


def _joined(whole: Sequence[dict], names: list[str]) -> dict:
    """The metadata of a recording of several files from that of each."""
    first = min(about["starting_time"]["nanoseconds_since_epoch"] for about in whole)
    spans = [
        (about["starting_time"]["nanoseconds_since_epoch"], about["duration"]["nanoseconds"])
        for about in whole
        if about["message_count"]
    ]
    last = max((start + duration for start, duration in spans), default=first)
    topics = [dict(topic) for topic in whole[0]["topics_with_message_count"]]
    for n, topic in enumerate(topics):
        topic["message_count"] = sum(a["topics_with_message_count"][n]["message_count"] for a in whole)
    return {
        "rosbag2_bagfile_information": whole[0]
        | {
            "relative_file_paths": names,
            "starting_time": {"nanoseconds_since_epoch": first},
            "duration": {"nanoseconds": last - first},
            "message_count": sum(about["message_count"] for about in whole),
            "topics_with_message_count": topics,
            "files": [about["files"][0] | {"path": name} for about, name in zip(whole, names, strict=True)],
        }
    }


def _write_yaml(document: dict, path: Path) -> None:
    yaml, text = YAML(typ="safe"), StringIO()
    yaml.default_flow_style = False
    yaml.dump(document, text)
    path.write_text(text.getvalue())
