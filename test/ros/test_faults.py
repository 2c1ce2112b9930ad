"""Every fault of the catalogue alone, for 0.6 s, against one node: no frame is lost and fusion comes back.

`fusionproxy soak` does this for longer, at full size, in pairs too, and with the limits that hold on a quiet machine.
That a killed node comes back is in test_restart.py.
"""

import pytest
from domains import own_domain

from fusionproxy_ros.trials.faults import CLOCK_FAULTS, FAULTS
from fusionproxy_ros.trials.judge import Limits
from fusionproxy_ros.trials.soak import run_slots
from fusionproxy_ros.trials.soak_plan import NO_FAULT, slots_of

pytestmark = pytest.mark.timeout(300)
BUSY_MACHINE = Limits(gap_ms=1000.0, recovery=20)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Row of every fault by its name, and what is to be said of each run."""
    rows, runs = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fusionproxy_ros.trials.soak_plan.FOOTAGE", 30
        )  # rendering more takes longer than some faults
        patch.setenv("ROS_DOMAIN_ID", own_domain())
        for faults, parameters in ((FAULTS, {}), (CLOCK_FAULTS, {"use_sim_time": True})):
            slots = slots_of([(fault,) for fault in (NO_FAULT, *faults)], fault_s=0.6, tail_s=0.8)
            new, run = run_slots(slots, (320, 240), parameters, tmp_path_factory.mktemp("soak"), BUSY_MACHINE)
            rows, runs = rows + new, [*runs, run]
    return {row["fault"]: row for row in rows}, runs


@pytest.mark.parametrize("name", [fault.name for fault in (NO_FAULT, *FAULTS, *CLOCK_FAULTS)])
def test_both_promises_hold_during_and_after(results, name):
    assert results[0][name]["broken"] == []


def test_the_node_survives_without_a_traceback(results):
    for run in results[1]:
        assert run["alive"] and run["tracebacks"] == run["answers_to_nothing"] == 0
