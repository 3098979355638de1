"""A Ray cluster of several nodes on one machine, each in processes of its own, as separate machines would be."""

import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys.embedded.process import LOOPBACK, GuardedProcess, ServerProcess, folder_lock, free_ports
from recsys.errors import ServiceError
from recsys.runtime.cluster import LOOPBACK_SWITCH

_START_SECONDS = 120.0
_LOCK_SECONDS = 12.0
_OBJECT_STORE_BYTES = 256 * 2**20
_STARTED = "Ray runtime started."
_TRIES = 3  # for each node: on a busy machine Ray's half minute is not always enough


class LoopbackNode(ServerProcess):
    """One node of Ray, by ``ray start --block`` under a guard: it ends with this process, however that ends.

    ``folder`` holds its log, and is where the jobs run that are sent to it.
    """

    def __init__(self, name: str, folder: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "recsys.runtime.loopback_node", "start", "--block"]
        with folder_lock(folder / "ray.lock", _LOCK_SECONDS, busy=lambda: f"a Ray node runs in {folder}") as lock:
            log_path = folder / "ray.log"
            log_path.unlink(missing_ok=True)
            process = GuardedProcess(
                [[*command, *options]],
                folder=folder,
                log_path=log_path,
                lock=lock,
                env=environment,
            )
        super().__init__(name, process, timeout_seconds=_START_SECONDS)

    def kill(self) -> None:
        """End all of it at once, as a machine that loses its power: nobody is told."""
        os.kill(self.guard_pid, signal.SIGKILL)  # the kernel takes the command along, and what that started

    def _answers(self) -> bool:
        return _STARTED in self.process.log_path.read_text(errors="replace")


class LoopbackCluster:
    """A head and more nodes, which speak on loopback alone and ask for a token; a context manager.

    ``nodes`` are the resources of the nodes beside the head, which has none of its own.

    ::

        with LoopbackCluster(folder, [{"shard": 1}, {"shard": 1, "worker": 2}]) as cluster:
            job = [sys.executable, "-m", "jobs.online", f"ray.address={cluster.address}"]
            subprocess.run(job, env=cluster.environment)
    """

    head: LoopbackNode
    nodes: list[LoopbackNode]

    def __init__(self, folder: Path, nodes: Sequence[Mapping[str, float]], *, num_cpus: int = 2) -> None:
        self._folder, self._resources, self._num_cpus = folder.resolve(), nodes, num_cpus
        self._port, self._dashboard_port, self._metrics_port = free_ports(3)
        self._token = secrets.token_hex(32)

    @property
    def address(self) -> str:
        """What ``ray.address`` is to be for a job that runs on this machine."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def dashboard(self) -> str:
        """The URL that jobs are sent to."""
        return f"http://{LOOPBACK}:{self._dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that joins the cluster, or sends a job to it."""
        return {**os.environ, LOOPBACK_SWITCH: "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}

    @property
    def metrics_file(self) -> Path:
        """The addresses that Prometheus reads from (``file_sd_configs``), as Ray's dashboard keeps them."""
        return self._temp_dir / "prom_metrics_service_discovery.json"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Where Ray has its files too, by default: the paths of sockets must be short.
            self._temp_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")))
            self.head = stack.enter_context(self._head())
            self.nodes, self._started = [], stack
            for resources in self._resources:  # one by one: Ray gives each of them half a minute
                self.add_node(resources)
            self._started = stack.pop_all()
        return self

    def add_node(self, resources: Mapping[str, float]) -> LoopbackNode:
        """One more node, or one for another that was killed; ends with the others."""
        for left in reversed(range(_TRIES)):
            try:
                self.nodes.append(self._started.enter_context(self._node(resources)))
                break
            except ServiceError:
                if not left:
                    raise
        return self.nodes[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def _head(self) -> LoopbackNode:
        options = [
            "--head",
            f"--port={self._port}",
            f"--temp-dir={self._temp_dir}",
            "--dashboard-host=" + LOOPBACK,
            f"--dashboard-port={self._dashboard_port}",
            "--no-monitor",  # nothing here grows by itself
            *self._common_options({}),
        ]
        return LoopbackNode("the Ray head", self._folder / "head", options, self._node_environment())

    def _node(self, resources: Mapping[str, float]) -> LoopbackNode:
        number = len(self.nodes) + 1
        options = [f"--address={self.address}", *self._common_options(resources)]
        return LoopbackNode(f"Ray node {number}", self._folder / f"node-{number}", options, self._node_environment())

    def _common_options(self, resources: Mapping[str, float]) -> list[str]:
        return [
            f"--node-ip-address={LOOPBACK}",
            f"--num-cpus={self._num_cpus}",
            f"--resources={json.dumps(dict(resources))}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--dashboard-agent-listen-port={free_ports(1)[0]}",
            "--min-worker-port=0",  # any: Ray's own range is one for all nodes of a machine
            "--max-worker-port=0",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]

    def _node_environment(self) -> dict[str, str]:
        """Jobs that are sent to the cluster find this Python first; actors are as nice as anybody."""
        return {
            **self.environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_worker_niceness": "0",
            LOOPBACK_SWITCH: "1",  # or ``ray start`` makes no second node; what it starts is given "0"
            "DASHBOARD_METRIC_PORT": str(self._metrics_port),
        }
