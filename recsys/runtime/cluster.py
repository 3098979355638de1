"""A Ray to run on: one of this process's own, which speaks on loopback alone, or an existing cluster."""

import json
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import services

from recsys.errors import ServiceError

LOOPBACK = "127.0.0.1"
# "0" keeps a Ray that is told 127.0.0.1 from taking the machine's own address instead: on Linux too.
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_REACH_SECONDS = 5.0
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """A connection to Ray for the time of the block; ``address`` None starts a local one and ends it after.

    Where this process is connected already, that connection is used and left open. Where RAY_ADDRESS is set, as it is
    for jobs that were sent to a cluster, None is that cluster.

    The local one speaks only on loopback and asks for a token that this process makes up and its children inherit
    (Ray's default for a local cluster; RAY_AUTH_MODE=disabled turns it off). An existing cluster is joined as
    RAY_AUTH_MODE and RAY_AUTH_TOKEN say, from one of its nodes; ServiceError where that can not be.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray").setLevel(logging.ERROR)
    terminate = signal.getsignal(signal.SIGTERM)
    with _addresses_as_given():
        if address in (None, "", "local"):
            _start()
        else:
            assert address is not None
            _join(address)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place, which ends the process at once
    try:
        yield
    finally:
        ray.shutdown()


def metrics_targets() -> list[str]:
    """``HOST:PORT`` of every node of the cluster that this process is connected to: Prometheus finds /metrics there."""
    return sorted(
        f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        for node in ray.nodes()
        if node["Alive"] and node["MetricsExportPort"] > 0
    )


def write_metrics_targets(path: Path) -> None:
    """The same as a file that Prometheus finds its targets by (``file_sd_configs``); a local Ray writes none itself."""
    beside = path.with_name(f"{path.name}.writing")
    beside.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": metrics_targets()}]) + "\n")
    beside.replace(path)


def stay_on_loopback() -> None:
    """From now on, the Ray nodes that this process starts speak on loopback alone, and so does all that they start."""
    services.resolve_ip_for_localhost = _as_given
    os.environ[LOOPBACK_SWITCH] = "0"


@contextmanager
def _addresses_as_given() -> Iterator[None]:
    """For the time of the block, 127.0.0.1 is just that to Ray, which takes it for the machine's own address otherwise.

    A node that is told its address is 127.0.0.1 listens there alone.
    """
    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = _as_given
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def _as_given(host: str) -> str:
    return host


def _start() -> None:
    """A Ray of this process's own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts actors at nice 15, for the sake of its own processes; here that leaves the cores to the broker.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # ray.init turns asking for it on
    os.environ[LOOPBACK_SWITCH] = "0"  # for what Ray starts
    try:
        ray.init(
            address="local",  # not some other's that runs on this machine
            _node_ip_address=LOOPBACK,
            num_cpus=64,  # slots for actors, which ask for none by default; cores are shared by the system
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=512 * 2**20,
        )
    except Exception as error:  # Ray raises a bare one where its own processes are not up within its 30 s
        raise ServiceError(
            f"Ray did not start here ({' '.join(str(error).split())[:300]}); where this machine is busy or short of "
            "memory try again later, or join a Ray that runs with ray.address=HOST:PORT"
        ) from error


def _join(address: str) -> None:
    """Connect to an existing cluster; what can not be is found within seconds, where Ray would try for minutes."""
    if address.startswith("ray://"):
        raise ServiceError(
            f"ray.address={address!r}: a job runs on a node of its cluster; give auto or HOST:PORT there, or send it "
            "from here with python -m jobs.submit address=http://HOST:8265"
        )
    bootstrap = _bootstrap_address(address)
    _check_reachable(address, bootstrap)
    _check_token(address, bootstrap)
    if not services.find_node_ids():
        raise _not_here(address, "this machine runs no node of a Ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _not_here(address, " ".join(str(error.__cause__ or error).split())[:300]) from error


def _bootstrap_address(address: str) -> str:
    """``host:port`` of the cluster; for ``auto``, of the one that runs on this machine."""
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    try:
        return str(services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError) as error:
        raise _no_answer(address, str(error).splitlines()[0]) from error


def _check_reachable(address: str, bootstrap: str) -> None:
    host, _, port = bootstrap.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise _no_answer(address, str(error)) from error


def _check_token(address: str, bootstrap: str) -> None:
    """ServiceError where no Ray listens there, or one that refuses this process."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # Ray knows the certificates
    import grpc

    token = token_to_send(address)
    sent = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(bootstrap, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_CHECK_ALIVE)(b"", timeout=_REACH_SECONDS, metadata=sent)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise token_refused(address, sent=token is not None) from error
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise _no_answer(address, "something else listens there") from error


def token_to_send(address: str) -> str | None:
    """The token that Ray sends: none unless RAY_AUTH_MODE=token, or there is one and the address is ``auto``.

    ServiceError where it should be sent and is not there.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode != "token" and (mode or address != "auto"):
        return None
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and path.is_file():
        token = path.read_text().strip()
    if mode == "token" and not token:
        raise ServiceError(
            "RAY_AUTH_MODE=token, but there is no token; set RAY_AUTH_TOKEN, or name a file that holds it in "
            "RAY_AUTH_TOKEN_PATH"
        )
    return token or None


def token_refused(address: str, sent: bool) -> ServiceError:
    """The error for a cluster that asks for a token, where none or a wrong one was sent."""
    if sent:
        return ServiceError(
            f"the Ray at {address!r} refuses this token; give the one that its nodes were started with, in "
            "RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
        )
    return ServiceError(
        f"the Ray at {address!r} asks for a token; set RAY_AUTH_MODE=token and, to the one that its nodes were started "
        "with, RAY_AUTH_TOKEN"
    )


def _not_here(address: str, reason: str) -> ServiceError:
    return ServiceError(
        f"can not join the Ray at {address!r} ({reason}); start the job on a node of it, or send it there with "
        "python -m jobs.submit"
    )


def _no_answer(address: str, reason: str) -> ServiceError:
    return ServiceError(f"no Ray answers at {address!r} ({reason}); start one, or leave out ray.address")
