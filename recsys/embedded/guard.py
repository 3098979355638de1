"""Runs commands for a job and stops them when the job is gone. A program of its own, standard library only.

Started as ``python -I -S guard.py ORDER`` with stdin the reading end of a pipe whose other end the job holds.
ORDER is JSON: ``commands`` (run one after the other, each once the last has ended well), ``grace_seconds``
(between SIGTERM and SIGKILL), ``job_pid``, ``keep_fds`` (open files the commands inherit: a lock on their
folder).

The job is gone when the pipe closes, or when this process has another parent: a child that the job forked may
hold the pipe open. Should the guard itself be killed, Linux kills the command (PR_SET_PDEATHSIG).
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.1


def main(order: dict[str, Any]) -> int:
    """Run the commands in turn; the status is that of the first that failed, or of the last."""
    stop_wanted = _job_watch(order["job_pid"])
    status = 0
    for command in order["commands"]:
        if stop_wanted():
            break
        status = _run(command, stop_wanted, order["grace_seconds"], order["keep_fds"])
        if status:
            break
    return status


def _job_watch(job_pid: int) -> Callable[[], bool]:
    """A function that says whether to stop: the pipe closed, the parent changed, or a signal came."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))

    def stop_wanted() -> bool:
        readable, _, _ = select.select([0], [], [], 0)
        return bool(signals) or os.getppid() != job_pid or (bool(readable) and not os.read(0, 1))

    return stop_wanted


def _run(command: list[str], stop_wanted: Callable[[], bool], grace_seconds: float, keep_fds: list[int]) -> int:
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_parent(),
        process_group=0,
        pass_fds=keep_fds,
    )
    while child.poll() is None:
        if stop_wanted():
            _stop(child, grace_seconds)
        else:
            # Wakes up at once when the pipe closes, and now and then to look at the child.
            select.select([0], [], [], _POLL_SECONDS)
    _kill_group(child.pid)
    return 128 - child.returncode if child.returncode < 0 else child.returncode


def _die_with_parent() -> Callable[[], None] | None:
    """What a Linux child does between fork and exec so that it is killed when the guard is."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    guard_pid = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard_pid:  # the guard died before the kernel was asked
            os._exit(1)

    return ask_kernel


def _stop(child: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    child.terminate()
    deadline = time.monotonic() + grace_seconds
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if child.poll() is None:
        child.kill()
        child.wait()


def _kill_group(group: int) -> None:
    """Kill what the command may have left behind: a fork of Redis that rewrites its log, say."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nothing left; macOS says it with EPERM


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
