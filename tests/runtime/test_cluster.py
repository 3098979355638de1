"""Ray on loopback, by itself and as a cluster of several nodes: joining it, sending jobs to it, a whole run on it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import psutil
import pytest
from films import write_films

from deploy.local_cluster import NODES, Servers, problems, run_online
from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.embedded.redis import EmbeddedRedis
from recsys.runtime.loopback import LoopbackCluster

ROOT = Path(__file__).resolve().parents[2]
needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))

# Joins the Ray at argv[1] and says what it found there; a user's mistake is said on one line.
JOIN = """
import sys, ray
from recsys.errors import ServiceError
from recsys.runtime.actors import Placement, start_actor, wait_for
from recsys.runtime.cluster import metrics_targets, ray_session

def where():
    class Where:
        def node(self):
            return ray.get_runtime_context().get_node_id()
    return Where

try:
    with ray_session(sys.argv[1] or None):
        actors = [start_actor(where(), placement=Placement(resources={"shard": 1})) for _ in range(2)]
        print(len(set(wait_for([actor.node.remote() for actor in actors]))), *metrics_targets())
except ServiceError as error:
    print("ServiceError:", error)
"""

# Starts a Ray of its own and shows its token and address, until its standard input ends.
LOCAL = """
import os, sys, ray
from recsys.runtime.cluster import ray_session
with ray_session():
    token = os.environ["RAY_AUTH_TOKEN"]
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_MODE"], len(token), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        with LoopbackCluster(tmp_path_factory.mktemp("cluster"), NODES) as started:
            yield started


def without_token(**env: str) -> dict[str, str]:
    """The environment of somebody who was told nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": "/nowhere", **env}


def said(code: str, *arguments: str, env: Mapping[str, str], prefix: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *arguments], env=dict(env), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def listening(processes: list[psutil.Process]) -> list[tuple[str, str, int]]:
    """(process, address, port) of every socket that takes connections."""
    return [
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


# --- a Ray of one's own


def test_a_local_ray_listens_on_loopback_alone_and_asks_for_a_token() -> None:
    local = subprocess.Popen(
        [sys.executable, "-c", LOCAL], env=without_token(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert local.stdin is not None and local.stdout is not None
    with local:
        address, mode, token_characters = local.stdout.readline().split()
        assert (mode, token_characters) == ("token", "64")
        mine = psutil.Process(local.pid)
        sockets = listening([mine, *mine.children(recursive=True)])
        assert len(sockets) > 5
        assert [socket for socket in sockets if socket[1] != "127.0.0.1"] == []
        assert "asks for a token; set RAY_AUTH_MODE=token" in said(JOIN, address, env=without_token())
        local.stdin.close()
    assert local.returncode == 0


# --- joining a cluster


def test_the_cluster_listens_on_loopback_alone(cluster: LoopbackCluster) -> None:
    guards = [psutil.Process(node.guard_pid) for node in (cluster.head, *cluster.nodes)]
    processes = [process for guard in guards for process in guard.children(recursive=True)]
    sockets = listening(processes)
    assert {name for name, _, _ in sockets} >= {"gcs_server", "raylet"}
    assert [socket for socket in sockets if socket[1] != "127.0.0.1"] == []


@pytest.mark.parametrize("by", ["address", "RAY_ADDRESS", "auto"])
def test_a_job_joins_with_the_token_and_its_actors_go_where_their_resources_are(
    by: str, cluster: LoopbackCluster
) -> None:
    address = {"address": cluster.address, "RAY_ADDRESS": "", "auto": "auto"}[by]
    env = cluster.environment if by == "address" else {**cluster.environment, "RAY_ADDRESS": cluster.address}
    num_nodes, *targets = said(JOIN, address, env=env).split()
    assert num_nodes == "2"
    assert len(targets) == 3


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "asks for a token; set RAY_AUTH_MODE=token and"),
        ({"RAY_AUTH_TOKEN": "not switched on"}, "asks for a token; set RAY_AUTH_MODE=token and"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}, "refuses this token; give the one that its nodes"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE=token, but there is no token; set RAY_AUTH_TOKEN"),
    ],
)
def test_a_missing_or_wrong_token_is_one_line_at_once(env: dict[str, str], says: str, cluster: LoopbackCluster) -> None:
    started = time.monotonic()
    answer = said(JOIN, cluster.address, env=without_token(**env))
    assert answer.startswith("ServiceError: ") and says in answer
    assert len(answer.splitlines()) == 1
    assert time.monotonic() - started < 30  # Ray itself gives up after 20 s, with a screenful


def test_addresses_that_can_not_be_joined(cluster: LoopbackCluster) -> None:
    dashboard = cluster.dashboard.removeprefix("http://")
    for address, says in {
        "127.0.0.1:1": "no Ray answers at '127.0.0.1:1' ([Errno 111] Connection refused)",
        dashboard: f"no Ray answers at '{dashboard}' (something else listens there)",
        "ray://127.0.0.1:10001": "a job runs on a node of its cluster; give auto or HOST:PORT there, or send it",
        "nowhere": "no Ray answers at 'nowhere' (Invalid address format: nowhere)",
    }.items():
        answer = said(JOIN, address, env=cluster.environment)
        assert answer.startswith("ServiceError: ") and says in answer, answer
        assert len(answer.splitlines()) == 1


def test_from_a_machine_that_is_no_node_a_job_has_to_be_sent(cluster: LoopbackCluster) -> None:
    """A namespace of its own sees none of the cluster's processes, as another machine."""
    elsewhere = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*elsewhere, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a process namespace")
    answer = said(JOIN, cluster.address, env=cluster.environment, prefix=elsewhere)
    assert "this machine runs no node" in answer and "send it there with python -m jobs.submit" in answer


def test_prometheus_finds_every_node(cluster: LoopbackCluster) -> None:
    """Ray writes the file that ``deploy/prometheus/prometheus.yml`` names, and each address in it answers."""
    deadline = time.monotonic() + 60
    while (text := cluster.metrics_file.read_text()).count("127.0.0.1") < 4:  # three nodes and the dashboard
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
    for target in re.findall(r"127\.0\.0\.1:\d+", text):
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            assert b"# TYPE " in answer.read()


# --- sending jobs to it


def submit(
    *arguments: str, cluster: LoopbackCluster, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.submit", f"address={cluster.dashboard}", *arguments],
        cwd=cwd,
        env={**(cluster.environment if env is None else env), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jobs of its own."""
    jobs = tmp_path_factory.mktemp("uploads") / "jobs"
    jobs.mkdir()
    (jobs / "__init__.py").touch()
    (jobs / "hello.py").write_text("import sys, pathlib\nprint('hello', sys.argv[1:], pathlib.Path('jobs').is_dir())\n")
    (jobs / "long.py").write_text(
        "import signal, sys, time\n"
        "def stop(*_):\n    time.sleep(4)\n    print('saved', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('long job', flush=True)\ntime.sleep(300)\n"
    )
    return jobs.parent


def test_a_job_is_followed_and_its_exit_status_is_ours(cluster: LoopbackCluster, tmp_path: Path) -> None:
    done = submit("job=lookup", "feature=item", "ids=[1,2]", cluster=cluster, cwd=tmp_path)
    assert done.returncode == 2
    assert "python -m jobs.lookup feature=item 'ids=[1,2]'" in done.stdout
    assert "lookup: no run with a serving cache in runs/" in done.stdout  # the job's own line
    assert done.stderr == ""


def test_a_folder_is_uploaded_where_it_is_named(cluster: LoopbackCluster, uploads: Path, tmp_path: Path) -> None:
    done = submit("job=hello", "a=1", "-m", f"working_dir={uploads}", cluster=cluster, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello ['a=1', '-m'] True" in done.stdout


def test_without_following_the_id_is_all_that_is_said(cluster: LoopbackCluster, uploads: Path, tmp_path: Path) -> None:
    done = submit("job=hello", "follow=false", f"working_dir={uploads}", cluster=cluster, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"raysubmit_\w+\n", done.stdout)


def test_ctrl_c_asks_the_job_to_stop_and_waits_for_what_it_saves(
    cluster: LoopbackCluster, uploads: Path, tmp_path: Path
) -> None:
    """Longer than the three seconds that Ray gives a job by default."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.submit", f"address={cluster.dashboard}", "job=long", f"working_dir={uploads}"],
        cwd=tmp_path,
        env={**cluster.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with process:
        for line in process.stdout:
            if line == "long job\n":
                break
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().splitlines()[0] == "saved"
        assert process.stderr.read().splitlines()[1:] == ["submit: interrupted"]
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "asks for a token; set RAY_AUTH_MODE=token and"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}, "refuses this token"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE=token, but there is no token; set RAY_AUTH_TOKEN"),
        ({"RAY_ADDRESS": "http://127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:2"}, "asks for a token"),
    ],
)
def test_submit_without_the_right_token(
    env: dict[str, str], says: str, cluster: LoopbackCluster, tmp_path: Path
) -> None:
    """The last: what Ray prefers to the address that it is given does not come before what the user typed."""
    done = submit("job=lookup", cluster=cluster, cwd=tmp_path, env=without_token(**env))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("submit: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


# --- a whole run on it


class Scraped:
    """What Prometheus would have read last of every node, while the block runs: by metric, then by (label, node)."""

    def __init__(self, cluster: LoopbackCluster) -> None:
        self.last: dict[str, dict[tuple[str, str], float]] = {}
        self._file = cluster.metrics_file
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.wait(1.0):
            for target in re.findall(r"127\.0\.0\.1:\d+", self._file.read_text()):
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                    text = answer.read().decode()
                for name, labels, value in re.findall(r"^ray_(recsys_\w+)\{(.*)\} (\S+)$", text, re.M):
                    [*label] = re.findall(r'(?:shard|worker)="\d+"', labels)
                    self.last.setdefault(name, {})[",".join(label), target] = float(value)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.long  # it is what make cluster runs
@needs_kafka
@pytest.mark.timeout(600)
def test_an_online_run_through_separate_servers(cluster: LoopbackCluster, tmp_path: Path) -> None:
    data = tmp_path / "data" / "ml100k"
    write_films(data, num_users=20, num_items=30, num_impressions=600)
    with (
        EmbeddedKafka(tmp_path / "kafka") as kafka,
        EmbeddedRedis(tmp_path / "redis") as redis,
        Scraped(cluster) as scraped,
    ):
        summary = run_online(
            Servers(cluster, kafka, redis), data, tmp_path / "run", ["workers=2", "batch.max_examples=32"]
        )
    assert problems(summary, 600) == []
    examples = scraped.last["recsys_examples_total"]
    assert sum(examples.values()) == 600
    assert {labels for labels, _ in examples} == {'worker="0"', 'worker="1"'}
    assert len({node for _, node in scraped.last["recsys_rows"]}) == 2  # each shard on a node of its own
    assert sum(scraped.last["recsys_rows"].values()) == summary["rows"]
    assert (summary["source"], summary["finished"]) == ("kafka", True)
    assert problems({**summary, "examples": 599, "examples_lost": 1}, 600) == [
        "examples_lost is 1, counted by request id; it should be 0",
        "599 examples were learned; there are 600",
    ]


@needs_kafka
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL])
def test_no_server_outlives_the_program(stop: signal.Signals, films: Path, tmp_path: Path) -> None:
    """``make cluster``, stopped while Ray starts."""
    program = subprocess.Popen(
        [sys.executable, "-m", "deploy.local_cluster", "--data", str(films), "--folder", str(tmp_path / "c")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stderr is not None
    with program:
        try:
            children = once_ray_starts(program)
            [log_dir] = [a for child in children for a in child.cmdline() if a.startswith("--log_dir=/tmp/ray-")][:1]
            assert {"java", "redis-server"} <= {process.name() for process in children}
            program.send_signal(stop)
            said_last = program.stderr.read()
        finally:
            program.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert [process.name() for process in alive] == []
    of_ray = Path(*Path(log_dir.removeprefix("--log_dir=")).parts[:3])
    if stop is signal.SIGKILL:
        shutil.rmtree(of_ray)
    else:
        assert (program.returncode, said_last) == (130, "local_cluster: interrupted; its servers are stopped\n")
        assert not of_ray.exists()


def once_ray_starts(program: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes below a program, once the first of Ray's is among them."""
    deadline = time.monotonic() + 100
    while program.poll() is None and time.monotonic() < deadline:
        children = psutil.Process(program.pid).children(recursive=True)
        if any(process.name() == "gcs_server" for process in children):
            return children
        time.sleep(0.1)
    raise AssertionError("Ray was never started")
