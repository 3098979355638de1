"""Start a server under a guard, wait until it answers, stop it; free ports; one server per folder."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys.errors import ConfigError, ServiceError

LOOPBACK = "127.0.0.1"
_GUARD = Path(__file__).with_name("guard.py")
_TAIL_BYTES = 4096
_TAIL_LINES = 4
# Below Linux's range for outgoing connections (32768 and up), above Ray's for workers (up to 19999): between
# our looking and the server's binding, nobody else is handed one of these.
_PORT_RANGE = range(20000, 32768)


class GuardedProcess:
    """Commands that run one after the other under a guard, and end when this process does.

    The output of all goes to the end of ``log_path``. ``lock`` is an open file (see ``folder_lock``) that
    stays locked for as long as the commands run.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        folder: Path,
        log_path: Path,
        lock: int,
        grace_seconds: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log_path = log_path
        self._grace_seconds = grace_seconds
        order = {
            "commands": [list(command) for command in commands],
            "grace_seconds": grace_seconds,
            "job_pid": os.getpid(),
            "keep_fds": [lock],
        }
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches the job alone, which may still need its servers.
                start_new_session=True,
                pass_fds=[lock],
                cwd=folder,
                env=None if env is None else dict(env),
            )

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, whose one child is the command that runs now."""
        return self._guard.pid

    def poll(self) -> int | None:
        """The exit status once all commands ended (or one failed), None before."""
        return self._guard.poll()

    def wait(self, timeout_seconds: float) -> int | None:
        """Wait for the end; None when it has not come in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._guard.wait(timeout_seconds)
        return None

    def stop(self) -> None:
        """SIGTERM to the running command, SIGKILL after the grace period; returns when it is gone."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        if self.wait(self._grace_seconds + 5.0) is None:
            self._guard.kill()  # the kernel takes the command along
            self._guard.wait()

    def log_tail(self) -> str:
        """The last lines of what was printed since the start, on one line."""
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        return " | ".join([line for line in lines if line][-_TAIL_LINES:]) or "(it printed nothing)"


class ServerProcess(ABC):
    """A server that is starting, or answers; a context manager that waits for it, and stops it.

    Raises ServiceError with the end of the log where the server stops by itself, or does not answer within
    ``timeout_seconds`` of its start.
    """

    def __init__(self, name: str, process: GuardedProcess, *, timeout_seconds: float) -> None:
        self.name = name
        self.process = process
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._is_ready = False

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server can be used; asked until it is so."""

    @property
    def guard_pid(self) -> int:
        """The process id of the guard; the server is its child."""
        return self.process.guard_pid

    def ready(self) -> Self:
        """Return once the server answers; at once if it did before."""
        if self._is_ready:
            return self
        try:
            while not self._answers():
                self._check_alive()
                self._check_deadline()
                time.sleep(0.03)
            # A server that could not have the port leaves whoever holds it to answer.
            self._check_alive()
        except BaseException:
            self.stop()
            raise
        self._is_ready = True
        return self

    def stop(self) -> None:
        """Stop the server, its data stay in its folder; harmless when it has stopped."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self.ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_alive(self) -> None:
        status = self.process.poll()
        if status is not None:
            tail = self.process.log_tail()
            message = f"{self.name} stopped with status {status}: {tail}; its log is {self.process.log_path}"
            raise ServiceError(message)

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            message = (
                f"{self.name} did not answer within {self._timeout_seconds:g} s of its start: "
                f"{self.process.log_tail()}; its log is {self.process.log_path}"
            )
            raise ServiceError(message)


@contextlib.contextmanager
def folder_lock(path: Path, timeout_seconds: float, busy: Callable[[], str]) -> Iterator[int]:
    """Lock a file for this process and those that inherit its descriptor; the lock goes when all are gone.

    Waits ``timeout_seconds`` for a holder that is about to end; then raises ServiceError saying ``busy()``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise ServiceError(busy())
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different.

    >>> a, b = free_ports(2)
    >>> a != b
    True
    """
    candidates = random.SystemRandom().sample(_PORT_RANGE, k=200)
    free = list(itertools.islice(filter(_is_free, candidates), count))
    if len(free) < count:
        message = f"found no free port on {LOOPBACK} in {_PORT_RANGE}; end some of what listens there"
        raise ServiceError(message)
    return free


def wanted_port(port: int | None, option: str) -> int:
    """The port that was asked for, or a free one; ConfigError, which names the option, where it is in use."""
    if port is None:
        return free_ports(1)[0]
    if not 0 < port < 65536:
        message = f"{option}={port} is no port; choose one between 1 and 65535, or leave it out for a free one"
        raise ConfigError(message)
    if not _is_free(port):
        remedy = f"choose another with {option}= or leave it out for a free one"
        message = f"port {port} on {LOOPBACK} is in use; {remedy}"
        raise ConfigError(message)
    return port


def listening(host: str, port: int | None) -> socket.socket:
    """A socket bound before anything is started; ConfigError where host and port can not be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port or 0), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host={host} port={port}: can not listen there, {error}; choose others") from error


def accepts_connections(port: int) -> bool:
    """Whether something listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a port whose last connections are still fading away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
