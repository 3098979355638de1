"""Jobs sent to an existing Ray cluster through its job server, followed to their end."""

import asyncio
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from recsys.errors import ConfigError, ServiceError
from recsys.runtime.cluster import token_refused, token_to_send

_REACH_SECONDS = 5.0
_POLL_SECONDS = 0.5
_STOP_SECONDS = 300  # what a job may take to save what it learned; Ray kills it after 3 s by default


def command_of(job: str, overrides: Sequence[str], python: str = "python") -> str:
    """The shell command of a job, as it would be typed on the cluster.

    >>> command_of("online", ["table=full", "join.actions.like={window_seconds: 5}"])
    "python -m jobs.online table=full 'join.actions.like={window_seconds: 5}'"
    """
    return shlex.join([python, "-m", f"jobs.{job}", *overrides])


class JobServer:
    """The job server of a cluster, at ``http://HOST:PORT`` of its dashboard.

    ConfigError where that is no such address; ServiceError where no Ray answers there, or one that asks for another
    token than RAY_AUTH_MODE=token and RAY_AUTH_TOKEN give.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._num_shown: dict[str, int] = {}  # characters, by job
        self._sends_token = token_to_send(address) is not None
        _check_reachable(address)
        with self._one_line():
            self._client = _connect(address)

    def submit(self, command: str, working_dir: Path | None = None) -> str:
        """Run a shell command on the cluster's head node; returns what the job is called there.

        ``working_dir`` is uploaded and becomes where the command runs, and where its actors import from.
        """
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}}
        if working_dir is not None:
            if not working_dir.is_dir():
                raise ConfigError(f"working_dir={working_dir} is no folder; name one to upload, or leave it out")
            environment["working_dir"] = str(working_dir.resolve())
        with self._one_line():
            return self._client.submit_job(entrypoint=command, runtime_env=environment)

    def follow(self, job_id: str, write: Callable[[str], None]) -> int:
        """Hand on what the job prints, as it comes, until its end; returns the exit status. Again: from where it was.

        0 for success, the job's own where it failed, 1 where it was stopped or could not be started.
        """
        with self._one_line():
            while True:
                with suppress(RuntimeError, aiohttp.ClientError):  # the connection broke: the job itself goes on
                    asyncio.run(self._tail(job_id, write))
                details = self._client.get_job_info(job_id)
                if details.status.is_terminal():
                    return _exit_status(details, write)
                time.sleep(_POLL_SECONDS)

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; it may take five minutes to save what it learned."""
        with self._one_line():
            self._client.stop_job(job_id)

    async def _tail(self, job_id: str, write: Callable[[str], None]) -> None:
        skip = self._num_shown.setdefault(job_id, 0)
        async for text in self._client.tail_job_logs(job_id):  # from the beginning, always
            new = text[skip:]
            skip -= len(text) - len(new)
            self._num_shown[job_id] += len(new)
            write(new)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Errors of Ray's client, and of what is below it, as ours."""
        try:
            yield
        except AuthenticationError as error:
            raise token_refused(self._address, sent=self._sends_token) from error
        except (OSError, RuntimeError, ValueError) as error:  # those of requests are OSErrors
            raise ServiceError(f"the job server at {self._address}: {' '.join(str(error).split())[:300]}") from error


def _exit_status(details: JobDetails, write: Callable[[str], None]) -> int:
    """That of a job which has ended; where it has none of its own, what Ray says of the end is written."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if not details.driver_exit_code:
        write(f"{details.submission_id}: {details.status.lower()}, {' '.join((details.message or '').split())}\n")
    return details.driver_exit_code or 1


def _check_reachable(address: str) -> None:
    """Ray's client would wait for minutes."""
    wrong = ConfigError(f"address={address} is no job server's; give that of the cluster's dashboard, http://HOST:8265")
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise wrong from None
    if not parts.hostname:
        raise wrong
    try:
        socket.create_connection((parts.hostname, port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ServiceError(
            f"no job server answers at {address} ({error}); give that of the cluster's dashboard, http://HOST:8265"
        ) from error


def _connect(address: str) -> JobSubmissionClient:
    """Ray takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS before the address it is given."""
    for talks in ("ray", JobSubmissionClient.__module__, SubmissionClient.__module__):
        logging.getLogger(talks).setLevel(logging.WARNING)
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        return JobSubmissionClient(address)
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before
