"""Where Fast DDS listens in shared memory, after a crash above all. Fast DDS 3.2 has races there, which end in silence.

Every process has a port in shared memory, a file that its peers open for writing. A process that is killed leaves its
own behind; its peers write to it, find it dead, make it anew, and take it away, over and over, until its lease ends,
20 s later. Who starts meanwhile on the same port may find it taken away, or a peer that still writes to the dead one's
(Fast DDS issues 2811, 4728 and 5053). `python test/bench_restart.py` shows it.
"""

import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fusionproxy_ros.frames import FusionError

SHARED_MEMORY = Path("/dev/shm")
PARTICIPANTS = range(8, 32)  # numbers that hardly anybody has, and where discovery by unicast still looks


@contextmanager
def fresh_port() -> Iterator[None]:
    """Have Fast DDS, which starts within this context, listen on a port that nobody has written to.

    It would take the first that is free, and after a crash that is the one of the dead. So those are held meanwhile.

    Convention: participant n of domain d has UDP ports 7410 + 250 d + 2 n and the next one, which is also the number of
        its port in shared memory (RTPS 2.5, 9.6.2.3).
    """
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    first = 7410 + 250 * (int(domain) if domain.isdecimal() else 0)  # else rclpy says what is wrong with it
    unknown = [n for n in PARTICIPANTS if not any(SHARED_MEMORY.glob(f"fast*_port{first + 2 * n + 1}*"))]
    with ExitStack() as held:
        for n in range(random.choice(unknown or PARTICIPANTS)):
            holder = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with suppress(OSError, OverflowError):  # it is somebody's; there is no such domain
                holder.bind(("", first + 2 * n))
        yield


class DeafError(FusionError):
    """Nobody new can reach this process by shared memory."""


def check_ports(process: Path = Path("/proc/self")) -> None:
    """Raise DeafError where a port on which `process` (its folder in /proc) listens was taken away.

    Who wrote to it before still does; who meets the process now makes a port of that name, where nobody listens.
    Scripts that empty /dev/shm do that, too. Takes a millisecond or so; finds nothing where there is no /proc.
    """
    listening, mapped = set(), {}
    try:
        for fd in (process / "fd").iterdir():
            if lock := re.search(r"/(fast\w+_port\d+)_el", os.path.realpath(fd)):  # held by who listens there
                listening.add(lock[1])
        for gone in re.finditer(r"/(fast\w+_port\d+)( \(deleted\))?$", (process / "maps").read_text(), re.M):
            mapped[gone[1]] = mapped.get(gone[1], True) and bool(gone[2])
    except OSError:
        return
    if lost := sorted(port for port in listening if mapped.get(port)):
        raise DeafError(f"{lost[0]} was taken away from /dev/shm: joining the graph anew")
