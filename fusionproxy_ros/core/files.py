"""Files that are whole at any moment."""

import os
from pathlib import Path


def save_bytes(path: Path, content: bytes) -> None:
    """The file holds what it held before or all of `content`, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
