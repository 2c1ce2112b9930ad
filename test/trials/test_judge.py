"""The judge of the soak finds every broken promise in a log that was made to hold it."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.trials.judge import Limits, Received, RunLog, Sent, judge_slots, rss_growth
from fusionproxy_ros.trials.soak_plan import NO_FAULT, Fault, frame_id_of, messages_of, slots_of

MS = 1_000_000  # nanoseconds
SLOTS = slots_of([(NO_FAULT,), (Fault("fault"),)], fault_s=1.0, tail_s=1.0)
FIRST, TAIL = 60, 90  # index of the first frame of the second slot, and of the clean time at its end
LATENCY_NS = 30 * MS


def sound_log(slots=SLOTS):
    """Every frame fused, once, 30 ms after it was sent."""
    sent = {"rgb": [], "thermal": []}
    for index, plan in enumerate(messages_of(slots)):
        name = frame_id_of(plan, index)
        one = Sent(name, plan.stamp_ns, plan.slot, plan.at_ns, plan.at_ns, faulty=plan.faulty)
        sent[plan.camera].append(one)
    images = [Received(s.sent_ns + LATENCY_NS, s.frame_id, s.stamp_ns) for s in sent["rgb"]]
    statuses = [replace(image, mode=Mode.FUSED) for image in images]
    return RunLog(sent["rgb"], sent["thermal"], images, statuses)


def edit(log, frames, images=True, statuses=True, **changes):
    """Change what came downstream for these frames (indices)."""
    for frame in frames:
        if images:
            log.images[frame] = replace(log.images[frame], **changes)
        if statuses:
            log.statuses[frame] = replace(log.statuses[frame], **changes)


def second_row(log, slots=SLOTS):
    first, second = judge_slots(slots, log, Limits())
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
        edit(log, range(FIRST + 5, FIRST + 8), mode=Mode.REFUSED, reason="truncated")
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
        edit(log, frames, images=False, mode=Mode.HELD, reason="late")

    assert broken_by(hold) == broken


def test_no_recovery_is_found():
    def flicker(log):
        edit(log, range(TAIL, 120, 3), images=False, mode=Mode.HELD, reason="late")

    assert broken_by(flicker) == ["not fused again after the fault"]


def test_a_refused_good_frame_is_found_and_a_refused_bad_one_is_not_accepted():
    def refuse(log):
        edit(log, [FIRST + 5], images=False, mode=Mode.REFUSED, reason="no")
        del log.images[FIRST + 5]

    def refuse_bad(log):
        refuse(log)
        log.rgb[FIRST + 5] = replace(log.rgb[FIRST + 5], usable=False)

    assert broken_by(refuse) == ["1 good frames refused"]
    assert broken_by(refuse_bad) == []


def test_a_dropped_frame_has_no_image():
    def drop(log):
        edit(log, [FIRST + 5], images=False, mode=Mode.DROPPED, reason="overload")

    def drop_without_image(log):
        drop(log)
        del log.images[FIRST + 5]

    assert broken_by(drop) == ["1 frames answered more than once"]
    assert broken_by(drop_without_image) == []


def test_silence_about_a_fault_is_found():
    def hold(log):
        edit(log, [FIRST + 5], images=False, mode=Mode.HELD)

    assert broken_by(hold) == ["1 frames neither fused nor with a reason"]
    reported = slots_of([(NO_FAULT,), (Fault("fault", must_be_reported=True),)], 1.0, 1.0)
    assert broken_by(lambda log: None, reported) == ["no status says that anything is wrong"]


def test_a_killed_node_may_leave_one_hole():
    killed = slots_of([(NO_FAULT,), (Fault("kill", kills="node"),)], 1.0, 1.0)

    def one_hole(log):
        del log.images[FIRST + 5 : FIRST + 20], log.statuses[FIRST + 5 : FIRST + 20]

    def two_holes(log):
        one_hole(log)
        del log.images[-3], log.statuses[-3]

    assert broken_by(one_hole, killed) == []
    assert broken_by(two_holes, killed) == ["16 frames not answered"]
    assert broken_by(one_hole) != []


def test_the_start_of_a_killed_camera_may_hold_outputs_up_but_none_is_lost():
    killed = slots_of([(NO_FAULT,), (Fault("kill", kills="camera"),)], 1.0, 1.0)

    def stall(log):
        edit(log, [FIRST + 5], ns=log.images[FIRST + 5].ns + 200 * MS)
        edit(log, [FIRST + 6], ns=log.images[FIRST + 5].ns + 1)

    assert broken_by(stall, killed) == []
    assert broken_by(stall) == ["no output for 233.3 ms, 100 ms allowed"]
    assert broken_by(lose_image, killed) == ["1 frames not answered"]


def test_frames_that_a_fault_kept_until_after_its_end_are_none_of_the_recovery():
    def late(log):  # the last five of the fault come behind the second of the clean time
        held = range(TAIL - 5, TAIL)
        edit(log, held, images=False, mode=Mode.HELD, reason="late")
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


@pytest.mark.parametrize("module", ["judge", "soak_plan", "night_road", "bench"])
def test_what_needs_no_ros_is_imported_without_it(module):
    missing = ("rclpy", "sensor_msgs", "std_msgs", "fusionproxy_ros.msg", "torch", "matplotlib")
    code = "import importlib as i, sys; sys.modules.update(dict.fromkeys(sys.argv[2:])); i.import_module(sys.argv[1])"
    command = [sys.executable, "-c", code, f"fusionproxy_ros.trials.{module}", *missing]
    assert subprocess.run(command).returncode == 0
