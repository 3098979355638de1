"""A Ray to run on: one of this process's own, bound to loopback, or an existing cluster."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from recsys.errors import ServiceError

LOOPBACK = "127.0.0.1"
_REACH_SECONDS = 5.0


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """A connection to Ray for the time of the block; ``address`` None starts a local one and ends it after.

    Where this process is connected already, that connection is used and left open.

    The local one speaks only on loopback and asks for a token that this process makes up and its children inherit
    (Ray's default for a local cluster; RAY_AUTH_MODE=disabled turns it off). An existing cluster is joined as
    RAY_AUTH_MODE and RAY_AUTH_TOKEN say.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    terminate = signal.getsignal(signal.SIGTERM)
    if address is None:
        # Ray starts actors at nice 15, for the sake of its own processes; here that leaves the cores to the broker.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # ray.init turns asking for it on
        ray.init(
            _node_ip_address=LOOPBACK,
            num_cpus=64,  # slots for actors, which ask for none by default; cores are shared by the system
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=512 * 2**20,
        )
    else:
        _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ServiceError(
                f"no Ray answers at {address!r} ({reason}); start one, or leave out ray.address"
            ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place, which ends the process at once
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """ServiceError where nothing listens at a ``host:port``: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ServiceError(f"no Ray answers at {address!r} ({error}); start one, or leave out ray.address") from error
