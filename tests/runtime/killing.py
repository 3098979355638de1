"""Processes of a run found by what they are, and killed: SIGKILL, as a machine that fails would."""

import os
import signal

import psutil


def actors(kind: str, under: int | None = None) -> list[int]:
    """Process ids of the actors of a class, of all that a process has started (by default this one), oldest first."""
    children = psutil.Process(os.getpid() if under is None else under).children(recursive=True)
    found = []
    for child in children:
        try:
            if " ".join(child.cmdline()).startswith(f"ray::{kind}"):
                found.append((child.create_time(), child.pid))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return [pid for _, pid in sorted(found)]


def kill(kind: str, at: int = -1, under: int | None = None) -> int:
    """Kill one actor of a class, by default the newest; returns its process id."""
    pid = actors(kind, under)[at]
    os.kill(pid, signal.SIGKILL)
    return pid
