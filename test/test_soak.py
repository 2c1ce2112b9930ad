"""The judge of the soak finds every broken promise in a log that was made to hold it; the schedule is what it says."""

from dataclasses import replace

import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)
pytest.importorskip(
    "fusionproxy_ros.msg", reason="FusionStatus is not built: run `make test` or colcon build"
)

from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.faults import CLOCK_FAULTS, FAULTS, KILL_FAULTS, MS, NONE, PERIOD_NS, Fault
from fusionproxy_ros.frames import NS_PER_S
from fusionproxy_ros.soak import (
    Limits,
    Log,
    Seen,
    Sent,
    fill,
    header_of,
    judge,
    rss_growth,
    shots_of,
    slots_of,
)

SLOTS = slots_of([(NONE,), (Fault("fault"),)], fault_s=1.0, tail_s=1.0)
FIRST, TAIL = 60, 90  # index of the first frame of the second slot, and of the clean time at its end
LATENCY_NS = 30 * MS


def sound_log(slots=SLOTS):
    """Every frame fused, once, 30 ms after it was sent."""
    sent = {"rgb": [], "thermal": []}
    for index, shot in enumerate(shots_of(slots)):
        name = header_of(shot, index, 0).frame_id
        one = Sent(name, shot.stamp_ns, shot.slot, shot.at_ns, shot.at_ns, faulty=shot.faulty)
        sent[shot.camera].append(one)
    images = [Seen(s.sent_ns + LATENCY_NS, s.frame_id, s.stamp_ns) for s in sent["rgb"]]
    statuses = [replace(image, mode=FusionStatus.FUSED) for image in images]
    return Log(sent["rgb"], sent["thermal"], images, statuses)


def edit(log, frames, images=True, statuses=True, **changes):
    """Change what came downstream for these frames (indices)."""
    for frame in frames:
        if images:
            log.images[frame] = replace(log.images[frame], **changes)
        if statuses:
            log.statuses[frame] = replace(log.statuses[frame], **changes)


def second_row(log, slots=SLOTS):
    first, second = judge(slots, log, Limits())
    assert not first["broken"]
    return second


def broken_by(change, slots=SLOTS):
    log = sound_log(slots)
    change(log)
    return second_row(log, slots)["broken"]


def test_a_sound_log_keeps_every_promise():
    row = second_row(sound_log())
    assert row["broken"] == []
    assert row["frames"] == row["accepted"] == row["answered_once"] == 60
    assert row["recovery_frames"] == 0 and row["modes"] == {"FUSED": 60} and row["reasons"] == {}
    assert row["worst_gap_ms"] == row["worst_sent_gap_ms"] == pytest.approx(33.3, abs=0.1)


def lose_frame(log):
    del log.images[FIRST + 5], log.statuses[FIRST + 5]


def lose_image(log):
    del log.images[FIRST + 5]


def lose_status(log):
    del log.statuses[FIRST + 5]


@pytest.mark.parametrize("lose", [lose_frame, lose_image, lose_status])
def test_a_lost_answer_is_found(lose):
    assert broken_by(lose) == ["1 frames not answered"]
    log = sound_log()
    lose(log)
    assert second_row(log)["answered_once"] == 59


@pytest.mark.parametrize("what", ["images", "statuses"])
def test_a_double_answer_is_found(what):
    def double(log):
        seen = getattr(log, what)
        seen.insert(FIRST + 5, seen[FIRST + 5])

    assert broken_by(double) == ["1 frames answered more than once"]


@pytest.mark.parametrize("part", ["images", "statuses"])
def test_another_stamp_is_found(part):
    def restamp(log):
        edit(log, [FIRST + 5], **{other: other == part for other in ("images", "statuses")}, stamp_ns=1)

    assert broken_by(restamp) == ["1 frames answered with another stamp"]


def test_images_out_of_order_are_found():
    def swap(log):
        a, b = log.images[FIRST + 5 : FIRST + 7]
        log.images[FIRST + 5 : FIRST + 7] = [replace(b, ns=a.ns), replace(a, ns=b.ns)]

    assert broken_by(swap) == ["1 images out of order"]


def test_a_long_gap_is_found():
    def stall(ms):
        return lambda log: edit(log, [FIRST + 5], ns=log.images[FIRST + 5].ns + ms * MS)

    assert broken_by(stall(60)) == []
    assert broken_by(stall(70)) == ["no output for 103.3 ms, 100 ms allowed"]


def test_a_gap_of_the_schedule_is_no_fault_of_the_node_and_what_exceeds_it_is():
    def unusable(log):  # three frames, refused: 133 ms between usable ones
        for frame in range(FIRST + 5, FIRST + 8):
            log.rgb[frame] = replace(log.rgb[frame], usable=False)
        edit(log, range(FIRST + 5, FIRST + 8), mode=FusionStatus.REFUSED, reason="truncated")
        del log.images[FIRST + 5 : FIRST + 8]

    def and_late(log):
        unusable(log)
        edit(log, [FIRST + 5], statuses=False, ns=log.images[FIRST + 5].ns + 70 * MS)

    assert broken_by(unusable) == []
    assert broken_by(and_late) == ["no output for 203.3 ms, 200 ms allowed"]


@pytest.mark.parametrize(("late", "broken"), [(3, []), (4, ["4 frames to recover, 3 allowed"])])
def test_slow_recovery_is_found(late, broken):
    def hold(log):
        frames = range(TAIL + 1, TAIL + 1 + late)  # thermal, 7 ms behind, is good again from TAIL + 1 on
        edit(log, frames, images=False, mode=FusionStatus.HELD, reason="late")

    assert broken_by(hold) == broken


def test_no_recovery_is_found():
    def flicker(log):
        edit(log, range(TAIL, 120, 3), images=False, mode=FusionStatus.HELD, reason="late")

    assert broken_by(flicker) == ["not fused again after the fault"]


def test_a_refused_good_frame_is_found_and_a_refused_bad_one_is_not_accepted():
    def refuse(log):
        edit(log, [FIRST + 5], images=False, mode=FusionStatus.REFUSED, reason="no")
        del log.images[FIRST + 5]

    def refuse_bad(log):
        refuse(log)
        log.rgb[FIRST + 5] = replace(log.rgb[FIRST + 5], usable=False)

    assert broken_by(refuse) == ["1 good frames refused"]
    assert broken_by(refuse_bad) == []


def test_a_dropped_frame_has_no_image():
    def drop(log):
        edit(log, [FIRST + 5], images=False, mode=FusionStatus.DROPPED, reason="overload")

    def drop_without_image(log):
        drop(log)
        del log.images[FIRST + 5]

    assert broken_by(drop) == ["1 frames answered more than once"]
    assert broken_by(drop_without_image) == []


def test_silence_about_a_fault_is_found():
    def hold(log):
        edit(log, [FIRST + 5], images=False, mode=FusionStatus.HELD)

    assert broken_by(hold) == ["1 frames neither fused nor with a reason"]
    told = slots_of([(NONE,), (Fault("fault", told=True),)], 1.0, 1.0)
    assert broken_by(lambda log: None, told) == ["no status says that anything is wrong"]


def test_a_killed_node_may_leave_one_hole():
    killed = slots_of([(NONE,), (Fault("kill", kills="node"),)], 1.0, 1.0)

    def one_hole(log):
        del log.images[FIRST + 5 : FIRST + 20], log.statuses[FIRST + 5 : FIRST + 20]

    def two_holes(log):
        one_hole(log)
        del log.images[-3], log.statuses[-3]

    assert broken_by(one_hole, killed) == []
    assert broken_by(two_holes, killed) == ["16 frames not answered"]
    assert broken_by(one_hole) != []


def test_the_start_of_a_killed_camera_may_hold_outputs_up_but_none_is_lost():
    killed = slots_of([(NONE,), (Fault("kill", kills="camera"),)], 1.0, 1.0)

    def stall(log):
        edit(log, [FIRST + 5], ns=log.images[FIRST + 5].ns + 200 * MS)
        edit(log, [FIRST + 6], ns=log.images[FIRST + 5].ns + 1)

    assert broken_by(stall, killed) == []
    assert broken_by(stall) == ["no output for 233.3 ms, 100 ms allowed"]
    assert broken_by(lose_image, killed) == ["1 frames not answered"]


def test_frames_that_a_fault_kept_until_after_its_end_are_none_of_the_recovery():
    def late(log):  # the last five of the fault come behind the second of the clean time
        held = range(TAIL - 5, TAIL)
        edit(log, held, images=False, mode=FusionStatus.HELD, reason="late")
        for frame in held:
            log.rgb[frame] = replace(log.rgb[frame], sent_ns=log.rgb[TAIL + 1].sent_ns + 8 * MS)
        log.images[TAIL - 5 : TAIL + 2] = log.images[TAIL : TAIL + 2] + log.images[TAIL - 5 : TAIL]

    assert [what for what in broken_by(late) if "recover" in what] == []


def test_what_acts_found_is_in_the_row():
    log = replace(sound_log(), problems={1: ["a bad value was taken"]})
    assert second_row(log)["broken"] == ["a bad value was taken"]


def test_growing_memory_is_found():
    warming_up = [50, 90]
    assert rss_growth(warming_up + [100] * 6) == 0
    assert rss_growth([100 + i for i in range(100)]) == pytest.approx(50 / 137, abs=0.01)
    assert rss_growth([100] * 7) is None


def test_every_fault_runs_alone_and_pairs_fill_the_time_and_a_seed_gives_one_schedule():
    names = [slot.name for slot in fill(10, seed=1)]
    assert set(names) > {fault.name for fault in FAULTS} and len(names) > len(FAULTS) + 10
    assert names == [slot.name for slot in fill(10, seed=1)] != [slot.name for slot in fill(10, seed=2)]
    assert fill(10, seed=1)[-1].stop_ns >= 600 * NS_PER_S
    every = [fault.name for fault in FAULTS + CLOCK_FAULTS + KILL_FAULTS]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("fault", FAULTS + CLOCK_FAULTS + KILL_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_does_something_in_its_time_and_nothing_after(fault):
    clean, shots = (
        shots_of(slots_of([(NONE,), (one,)], fault_s=1.0, tail_s=1.0), with_clock=True)
        for one in (NONE, fault)
    )
    assert fault.act is not Fault.act or shots != clean
    changed = {shot.at_ns for shot in set(shots) ^ set(clean) if shot.at_ns < 4 * NS_PER_S}
    assert all(2 * NS_PER_S <= ns < 3 * NS_PER_S + PERIOD_NS for ns in changed)
