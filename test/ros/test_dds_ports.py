"""A process listens where nobody has written to, whatever was left behind, and notices when its port is gone."""

import mmap
import os
import socket
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from fusionproxy_ros.ros import dds

DOMAIN = 83
FIRST = 7410 + 250 * DOMAIN


@pytest.fixture
def shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(dds, "SHARED_MEMORY", tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    return tmp_path


def first_free():
    """The participant's number that Fast DDS would take now: the first whose port can be bound."""
    for n in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", FIRST + 2 * n))
            except OSError:
                continue
            return n


@pytest.mark.parametrize("left", ["fastdds_port{}", "fastdds_port{}_el", "fastrtps_port{}"])
def test_the_only_number_of_which_nothing_was_left_behind_is_taken(shared_memory, left):
    for n in set(dds.PARTICIPANTS) - {19}:
        (shared_memory / left.format(FIRST + 2 * n + 1)).touch()
    assert first_free() == 0
    with dds.fresh_port():
        assert first_free() == 19
    assert first_free() == 0


@pytest.mark.parametrize("domain", ["", "no number", "400"])
def test_a_domain_that_rclpy_will_refuse_is_left_to_rclpy(shared_memory, monkeypatch, domain):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    with dds.fresh_port():
        pass


def test_where_all_numbers_are_known_one_is_taken_all_the_same(shared_memory):
    for n in dds.PARTICIPANTS:
        (shared_memory / f"fastdds_port{FIRST + 2 * n + 1}").touch()
    with dds.fresh_port():
        assert first_free() in dds.PARTICIPANTS


def test_a_port_is_missed_once_it_is_gone_and_not_once_it_was_made_anew(tmp_path):
    port, lock = tmp_path / "fastdds_port12345", tmp_path / "fastdds_port12345_el"
    port.write_bytes(bytes(4096))

    def listen():
        with port.open("r+b") as file:
            return mmap.mmap(file.fileno(), 4096)

    with lock.open("w") as held, listen():
        flock(held, LOCK_EX)
        dds.check_ports()
        port.unlink()
        with pytest.raises(dds.DeafError, match="fastdds_port12345"):
            dds.check_ports()
        port.write_bytes(bytes(4096))
        with pytest.raises(dds.DeafError):  # another's, of the same name
            dds.check_ports()
        with listen():
            dds.check_ports()
    dds.check_ports()  # it does not listen any more


def test_a_peer_that_went_is_not_missed(tmp_path):
    port = tmp_path / "fastdds_port12346"
    port.write_bytes(bytes(4096))
    with port.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        port.unlink()
        dds.check_ports()


def test_a_process_that_is_gone_misses_nothing():
    assert not Path(f"/proc/{2**22 + 1}").exists()  # above every pid_max
    dds.check_ports(Path(f"/proc/{2**22 + 1}"))
    dds.check_ports(Path(f"/proc/{os.getpid()}"))
