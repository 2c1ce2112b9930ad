"""What Fast DDS needs: a segment that holds large images, and a port that no dead process left behind.

Every process has a port in shared memory, a file that its peers open for writing. A process that is killed leaves its
port behind; its peers write to it, find it dead, recreate it and remove it, over and over, until its lease of 20 s
ends. A process that starts meanwhile on the same port may find it removed, or a peer that still writes to the dead
process's (Fast DDS issues 2811, 4728 and 5053; seen with Fast DDS 3.2). test/benchmarks/bench_restart.py shows it.
"""

import os
import random
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fusionproxy_ros.core.errors import FusionError


def share_path(*parts: str) -> Path:
    """A file that was installed to share/fusionproxy_ros."""
    from ament_index_python.packages import get_package_share_directory

    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # the PyPI wheels do not set it
    return Path(get_package_share_directory("fusionproxy_ros"), *parts)


def large_image_profile() -> str:
    """Path of the shipped Fast DDS profile."""
    return str(share_path("config", "fastdds_large_images.xml"))


def use_large_image_profile() -> None:
    """Have Fast DDS in this process and its children use the shipped profile, unless the user chose another.

    Call before rclpy starts. Fast DDS's own shared-memory segment of 512 KiB holds no 640x480 rgb8 image, and its
    queues keep the memory of the most images that ever waited in them.
    """
    variable = "FASTRTPS" if os.environ.get("ROS_DISTRO") == "jazzy" else "FASTDDS"
    ours = large_image_profile()
    if os.environ.setdefault(f"{variable}_DEFAULT_PROFILES_FILE", ours) == ours:
        # Else rmw_fastrtps looks at the participant's part of it alone. With another profile it would overrule more.
        os.environ.setdefault("RMW_FASTRTPS_USE_QOS_FROM_XML", "1")


SHARED_MEMORY = Path("/dev/shm")
PARTICIPANTS = range(8, 32)  # numbers that hardly anybody has, and where discovery by unicast still looks


@contextmanager
def fresh_port() -> Iterator[None]:
    """Have Fast DDS, which starts within this context, listen on a port that nobody has written to.

    Does nothing with another middleware. Fast DDS would take the first port that is free, and after a crash that is the
    dead process's. So those are held meanwhile.

    Convention: participant n of domain d has UDP ports 7410 + 250 d + 2 n and the next one, which is also the number of
        its port in shared memory (RTPS 2.5, 9.6.2.3).
    """
    if not (os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp").startswith("rmw_fastrtps"):
        yield
        return
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
    listening: set[str] = set()
    mapped: dict[str, bool] = {}
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
