"""Ports, locks, and what a server that does not come up says."""

import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from recsys.embedded.process import GuardedProcess, ServerProcess, folder_lock, free_ports, wanted_port
from recsys.errors import ConfigError, ServiceError


def guarded(folder: Path, *scripts: str, grace_seconds: float = 5.0) -> GuardedProcess:
    """Python scripts under a guard, one after the other."""
    with folder_lock(folder / "lock", 0.0, busy=lambda: "busy") as lock:
        commands = [[sys.executable, "-I", "-S", "-c", script] for script in scripts]
        return GuardedProcess(commands, folder=folder, log_path=folder / "log", lock=lock, grace_seconds=grace_seconds)


class Toy(ServerProcess):
    """A server of which the test says whether it answers."""

    def __init__(self, process: GuardedProcess, *, answers: bool, timeout_seconds: float = 10.0) -> None:
        super().__init__("Toy", process, timeout_seconds=timeout_seconds)
        self.answers = answers

    def _answers(self) -> bool:
        return self.answers


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            wanted_port(port, "kafka.port")
    assert str(error.value) == (
        f"port {port} on 127.0.0.1 is in use; choose another with kafka.port= or leave it out for a free one"
    )


def test_no_port() -> None:
    with pytest.raises(ConfigError, match=r"redis.port=70000 is no port; choose one between 1 and 65535"):
        wanted_port(70000, "redis.port")


def test_commands_run_in_turn_until_one_fails(tmp_path: Path) -> None:
    process = guarded(tmp_path, "print('one')", "import sys; print('two'); sys.exit(3)", "print('three')")
    assert process.wait(10.0) == 3
    assert process.log_tail() == "one | two"
    process.stop()


def test_a_server_that_ends_by_itself_tells_the_end_of_its_log(tmp_path: Path) -> None:
    process = guarded(tmp_path, "import sys; print('no room left'); sys.exit(7)")
    server = Toy(process, answers=False)
    with pytest.raises(ServiceError) as error:
        server.ready()
    assert str(error.value) == f"Toy stopped with status 7: no room left; its log is {tmp_path / 'log'}"


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("script", ["pass", "import time; time.sleep(60)"], ids=["ended by itself", "running"])
def test_a_stopped_server_leaves_no_file_open(tmp_path: Path, script: str) -> None:
    before = open_files()
    server = Toy(guarded(tmp_path, script), answers=True)
    if script == "pass":
        assert server.process.wait(10.0) == 0
    assert open_files() != before  # the pipe to the guard
    server.stop()
    assert open_files() == before


def test_a_server_that_stays_silent_is_stopped(tmp_path: Path) -> None:
    process = guarded(tmp_path, "import time; time.sleep(60)")
    server = Toy(process, answers=False, timeout_seconds=0.3)
    with pytest.raises(ServiceError, match=re.escape("Toy did not answer within 0.3 s of its start: (it printed")):
        server.ready()
    assert process.poll() is not None


def test_whoever_holds_the_port_does_not_answer_for_a_server_that_ended(tmp_path: Path) -> None:
    process = guarded(tmp_path, "import sys; print('port taken'); sys.exit(1)")
    process.wait(10.0)
    server = Toy(process, answers=True)
    with pytest.raises(ServiceError, match="port taken"):
        server.ready()


def test_a_server_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process = guarded(tmp_path, deaf, grace_seconds=0.3)
    while "deaf" not in process.log_tail():
        time.sleep(0.01)
    start = time.monotonic()
    process.stop()
    assert 0.3 <= time.monotonic() - start < 5.0
    assert process.poll() == 128 + 9


def test_a_child_of_the_server_goes_with_it(tmp_path: Path) -> None:
    fork = "import os, time; pid = os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
    process = guarded(tmp_path, fork)
    while " | " not in process.log_tail():
        time.sleep(0.01)
    pids = [int(pid) for pid in process.log_tail().split(" | ") if pid.isdigit()]
    process.stop()
    time.sleep(0.1)
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() and _is_running(pid) for pid in pids)


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_lock_lasts_as_long_as_the_server(tmp_path: Path) -> None:
    process = guarded(tmp_path, "import time; time.sleep(60)")
    with (
        pytest.raises(ServiceError, match="taken"),
        folder_lock(tmp_path / "lock", 0.1, busy=lambda: "taken"),
    ):
        pass
    process.stop()
    with folder_lock(tmp_path / "lock", 5.0, busy=lambda: "taken") as lock:
        assert os.fstat(lock).st_size == 0
