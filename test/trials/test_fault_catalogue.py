"""The catalogue of faults is complete and does what it says; every fault gets its time in a soak."""

import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)
pytest.importorskip(
    "fusionproxy_ros.msg", reason="FusionStatus is not built: run `make test` or colcon build"
)

from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.trials.faults import CLOCK_FAULTS, FAULTS, KILL_FAULTS
from fusionproxy_ros.trials.soak_plan import (
    NO_FAULT,
    PERIOD_NS,
    Fault,
    messages_of,
    slots_of,
    slots_of_pairs,
)


def test_every_fault_runs_alone_and_pairs_fill_the_time_and_a_seed_gives_one_schedule():
    names = [slot.name for slot in slots_of_pairs(FAULTS, 10, seed=1)]
    assert set(names) > {fault.name for fault in FAULTS} and len(names) > len(FAULTS) + 10
    assert (
        names
        == [slot.name for slot in slots_of_pairs(FAULTS, 10, seed=1)]
        != [slot.name for slot in slots_of_pairs(FAULTS, 10, seed=2)]
    )
    assert slots_of_pairs(FAULTS, 10, seed=1)[-1].stop_ns >= 600 * NS_PER_S
    every = [fault.name for fault in FAULTS + CLOCK_FAULTS + KILL_FAULTS]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("fault", FAULTS + CLOCK_FAULTS + KILL_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_does_something_in_its_time_and_nothing_after(fault):
    clean, messages = (
        messages_of(slots_of([(NO_FAULT,), (one,)], fault_s=1.0, tail_s=1.0), with_clock=True)
        for one in (NO_FAULT, fault)
    )
    assert fault.act is not Fault.act or messages != clean
    changed = {message.at_ns for message in set(messages) ^ set(clean) if message.at_ns < 4 * NS_PER_S}
    assert all(2 * NS_PER_S <= ns < 3 * NS_PER_S + PERIOD_NS for ns in changed)
