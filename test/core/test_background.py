"""Background jobs run at low priority, in threads that are kept, and none is lost, whatever the others do."""

import ctypes
import os
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from queue import SimpleQueue

import numpy as np
import pytest

from fusionproxy_ros.core.background import LOW_NICENESS, JobThreads, run_in_background

PATIENCE_S = 60  # for what takes a moment


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_background(job=lambda: None, urgent=False):
    """(What it returned, the thread that ran it)."""
    inbox = SimpleQueue()
    run_in_background(lambda: inbox.put((job(), threading.current_thread())), urgent=urgent)
    return inbox.get(timeout=PATIENCE_S)


def test_a_job_gets_its_arguments_and_yields_to_everybody_else():
    before, seen = niceness(), SimpleQueue()
    run_in_background(lambda *arguments: seen.put((arguments, niceness())), 7, "x")
    assert seen.get(timeout=PATIENCE_S) == ((7, "x"), max(before, LOW_NICENESS))
    assert niceness() == before


def test_an_urgent_job_keeps_the_priority():
    assert in_background(niceness, urgent=True)[0] == niceness()


NICENESS_OF_A_JOB = """
import os, queue, resource, sys
from fusionproxy_ros.core.background import run_in_background

os.nice(max(0, int(sys.argv[1]) - os.nice(0)))
if sys.argv[2] == "ordinary":
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
seen = queue.SimpleQueue()
for urgent in False, True:
    run_in_background(lambda: seen.put(os.getpriority(os.PRIO_PROCESS, 0)), urgent=urgent)
    print(os.nice(0), seen.get(timeout=60))
"""


@pytest.mark.parametrize("user", ["ordinary", "the same"])
@pytest.mark.parametrize("started_with", [0, 12, 15, 19])
def test_a_process_that_is_nice_already_gets_its_jobs_done_and_their_priority_never_rises(started_with, user):
    command = [sys.executable, "-c", NICENESS_OF_A_JOB, str(started_with), user]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (own, low), (_, urgent) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert own >= started_with and low == max(own, LOW_NICENESS) and urgent == own


def test_where_the_system_forbids_another_priority_jobs_run_all_the_same(monkeypatch):
    def forbid(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    monkeypatch.setattr(os, "getpriority", forbid)
    seen = SimpleQueue()
    JobThreads("of a test", LOW_NICENESS).run(partial(seen.put, 7))
    assert seen.get(timeout=PATIENCE_S) == 7


def test_threads_are_kept_for_the_next_job():
    seen, end_s = set(), time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        _, thread = in_background()
        if thread in seen:
            return
        seen.add(thread)  # it may need a moment until it is idle
    pytest.fail("a new thread for each job")


def test_no_job_waits_for_another_and_urgent_ones_have_threads_of_their_own():
    goes_on = threading.Event()
    for _ in range(50):
        run_in_background(goes_on.wait, PATIENCE_S)
    assert in_background()[1].is_alive()
    goes_on.set()
    assert not {in_background()[1] for _ in range(5)} & {in_background(urgent=True)[1] for _ in range(5)}


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, MemoryError])
def test_a_job_that_raises_is_reported_and_its_thread_serves_on(monkeypatch, error):
    told, raised_in = SimpleQueue(), []

    def fail():
        raised_in.append(threading.current_thread())
        raise error

    monkeypatch.setattr(threading, "excepthook", told.put)
    run_in_background(fail)
    failure = told.get(timeout=PATIENCE_S)
    assert failure.exc_type is error and failure.thread is raised_in[0] and failure.exc_traceback
    assert failure.thread.name == "fusion background"
    goes_on, serving, end_s = threading.Event(), set(), time.monotonic() + PATIENCE_S
    while failure.thread not in serving and time.monotonic() < end_s:
        run_in_background(lambda: serving.add(threading.current_thread()) or goes_on.wait(PATIENCE_S))
        time.sleep(0.005)
    goes_on.set()
    assert failure.thread in serving


def test_a_hook_that_raises_itself_takes_no_job_with_it(monkeypatch):
    def fail():
        raised_in.append(threading.current_thread())
        raise ZeroDivisionError

    monkeypatch.setattr(threading, "excepthook", lambda failure: 1 / 0)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)  # who is told of that
    raised_in = []
    for count in range(1, 6):
        run_in_background(fail)
        assert in_background(lambda: 7)[0] == 7
        end_s = time.monotonic() + PATIENCE_S
        while len(raised_in) < count and time.monotonic() < end_s:
            time.sleep(0.002)
    for thread in raised_in:
        thread.join(PATIENCE_S)
    assert len(raised_in) == 5


def test_without_a_hook_standard_error_says_what_a_job_raised():
    code = (
        "from fusionproxy_ros.core.background import run_in_background; import sys\n"
        "run_in_background(lambda: 1 / 0); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        told = []
        while not told or not told[-1].startswith("ZeroDivisionError"):
            told.append(process.stderr.readline())
            assert told[-1]
        process.stdin.close()
    assert told[0].startswith("Exception in thread fusion background")


def test_a_child_process_does_not_give_its_jobs_to_threads_that_it_does_not_have():
    code = """if True:
        import os, queue, threading, time, warnings
        from fusionproxy_ros.core.background import run_in_background
        warnings.simplefilter("ignore")  # of a fork beside threads

        def job():
            done = queue.SimpleQueue()
            run_in_background(done.put, True)
            return done.get(timeout=60)

        job()
        time.sleep(0.2)  # its thread is idle
        child = os.fork()
        if not child:
            os._exit(0 if job() else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_without_waiting_for_a_job_that_hangs():
    code = "from fusionproxy_ros.core.background import run_in_background as run; import time; run(time.sleep, 900)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_worked_on_in_the_background_is_not_kept(monkeypatch, fails):
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda failure: told.set())
    image = np.zeros(9)
    known = weakref.ref(image)
    run_in_background(partial(np.reshape, image, (9,) if not fails else (2, 2)))
    del image
    end_s = time.monotonic() + PATIENCE_S
    while known() is not None and time.monotonic() < end_s:
        time.sleep(0.005)
    assert known() is None and told.wait(PATIENCE_S if fails else 0) == fails


MEMORY_OF_JOBS = """
import ctypes, threading
import cv2, numpy as np
from fusionproxy_ros.core.background import run_in_background

class Info(ctypes.Structure):
    _fields_ = [(str(n), ctypes.c_size_t) for n in range(10)]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
picture, done = np.zeros((48, 64), np.uint8), threading.Semaphore(0)

def job():
    cv2.GaussianBlur(picture, (0, 0), 1)
    done.release()

def in_use_after(times):
    for _ in range(times):
        run_in_background(job)
        done.acquire()
    return getattr(mallinfo(), "7")

before = in_use_after(100)
print((in_use_after(500) - before) / 500)
"""


def test_jobs_leave_no_memory_behind():
    """OpenCV keeps 0.9 kB for each thread that ever used it: four a second are 12 MB an hour."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("glibc's count of memory in use")
    done = subprocess.run([sys.executable, "-c", MEMORY_OF_JOBS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100
