"""Fuses a recording: every RGB frame gets what the live node would publish if no frame were dropped.

Messages are read, paired, registered and gain-controlled in order; students run in threads; their answers are written
in order. What is decided for a frame is pipeline/answers.py's; here are only order and bytes.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fusionproxy_ros.bags.camera_topics import choose_topics, fused_topics
from fusionproxy_ros.bags.fused_frames import Entry, FusedFrames, nothing
from fusionproxy_ros.bags.recording import Recording
from fusionproxy_ros.bags.writing import BagWriter
from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.frames import NS_PER_S, Mode
from fusionproxy_ros.pipeline.settings import Settings


@dataclass(frozen=True, eq=False)
class FusedBag:
    """What came of one recording. modes: frames by the name of their mode. reasons: frames by what was missing."""

    out: Path
    modes: Counter[str]
    reasons: Counter[str]
    damage: tuple
    seconds: float
    recorded_s: float
    registration: str

    @property
    def is_fused(self) -> bool:
        """Whether thermal reached any frame."""
        return bool(self.modes[Mode.FUSED.name] + self.modes[Mode.HELD.name])


def fuse_bag(
    path: Path,
    out: Path,
    settings: Settings | None = None,
    rgb_topic: str | None = None,
    thermal_topic: str | None = None,
    copy: bool = False,
    storage: str | None = None,
    compression: str = "none",
    workers: int = 2,
    **writing: Any,
) -> FusedBag:
    """Fuse one recording into another, `out`; goes on where an earlier run was killed.

    settings: the node's; no misalignment is estimated here, so refine_max_px corrects none. None: the defaults, and
        registration by the recording's camera_info and tf_static where it has both for these cameras.
    copy: all other topics too, their bytes unchanged, but for what a node had fused before.
    storage: "mcap" or "sqlite3"; as the input's if not given.
    workers: students that run side by side. The result does not depend on it.

    Raises BagError.
    """
    start_s = time.monotonic()
    keep_freed_memory()
    with Recording(path) as recording:
        run = FusedFrames(recording, choose_topics(recording, rgb_topic, thermal_topic), settings)
        others = set(recording.topics) - fused_topics(recording) if copy else set()
        topics = [*run.messages.topics.values(), *(recording.topics[name] for name in sorted(others))]
        depends = {"recording": _identity(recording), "fusion": run.identity, "copied": sorted(others)}
        form = storage or recording.storage, compression, topics, recording.types, depends
        with (
            BagWriter(out, *form, **writing) as writer,
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=recording.topics[run.cameras.rgb].count, desc=path.name, unit="frame") as progress,
        ):
            for entry in _in_order(run.entries(others), pool, writer.done, 2 * workers):
                for name, data in entry.result():
                    writer.write(name, entry.log_ns, data)
                writer.may_part()
                progress.update(entry.is_frame)
            writer.finish()
        spans_s = time.monotonic() - start_s, (recording.end_ns - recording.start_ns) / NS_PER_S
        modes = Counter({Mode(mode).name: count for mode, count in run.counts.modes.items()})
        return FusedBag(out, modes, run.reasons, tuple(recording.damage), *spans_s, run.registration)


def _in_order(entries: Iterator[Entry], pool: ThreadPoolExecutor, done: int, ahead: int) -> Iterator[Entry]:
    """Frames are made in the pool, at most `ahead` of them in advance; the first `done` messages are not made again."""
    queue: deque[Entry] = deque()
    running = 0
    for entry in entries:
        if done:  # by an earlier run
            done -= entry.count
            entry.make = nothing
        elif entry.is_frame and entry.make:
            entry.made = pool.submit(entry.make)
            running += 1
        queue.append(entry)
        while queue and (running > ahead or queue[0].made is None or queue[0].made.done()):
            running -= queue[0].made is not None
            yield queue.popleft()
    yield from queue


def _identity(recording: Recording) -> list:
    return [recording.start_ns, recording.end_ns, [repr(topic) for topic in recording.topics.values()]]
