"""What the readers of storage files have in common: those of rosbags for sound files, salvage for damaged ones."""

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rosbags.interfaces import Connection, MessageDefinitionFormat

from fusionproxy_ros.core.errors import FusionError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DEFINITION_FORMATS", "BagError", "Damage", "StorageReader", "Stored", "zstd"]
Stored = tuple[Connection, int, bytes]  # a message: its topic, when it was recorded in ns, its CDR bytes
DEFINITION_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class BagError(FusionError):
    """A recording that cannot be used. The message names the cause and the cure."""


@dataclass(frozen=True)
class Damage:
    """A place in a file that cannot be read. where: its offset in bytes, or the row of a database."""

    file: Path
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.what}"


class StorageReader(Protocol):
    """Reads one storage file that is open. rosbags' Reader is one, and so are McapSalvage and SqliteSalvage."""

    @property
    def connections(self) -> list[Connection]:
        """The topics."""

    @property
    def start_time(self) -> int:
        """When the first message was recorded, in ns."""

    @property
    def end_time(self) -> int:
        """1 ns after the last message was recorded; 0 without messages."""

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[Stored]:
        """Those of the given topics that were recorded at `start` or later."""

    def close(self) -> None: ...
