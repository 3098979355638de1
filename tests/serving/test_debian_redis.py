"""Publishing and serving over TLS with users of few rights, and in a Redis Cluster: Debian's redis-server 7.0."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from debian_redis import cluster, needs_debian, secured
from served_films import Films, films

from recsys.embedded.redis import check_redis
from recsys.embedded.redis_url import open_client
from recsys.errors import ConfigError, ServiceError
from recsys.rows.layout import Layout
from recsys.serving import Lookup, Ranker
from recsys.sync.publisher import Publisher
from recsys.sync.versions import list_versions, remove_version, roll_back

pytestmark = needs_debian


@pytest.fixture(scope="module")
def trained() -> Films:
    return films("collisionless", "dcnv2", strings=True)


def publish(trained: Films, url: str, layout: Layout, consumer: str) -> None:
    """All of it, and switch to it."""
    trained.state.everything_changed()
    with contextlib.closing(open_client(url)) as client:
        publisher = Publisher(
            client, trained.trainer.store, [trained.state], layout, time_ms=lambda: trained.time_ms, consumer=consumer
        )
        publisher.describe(trained.blueprint.to_json(), {})
        publisher.publish()
        publisher.switch()


def assert_served(trained: Films, url: str, model: str) -> None:
    ranker = Ranker.connect(url, model)
    with contextlib.closing(ranker.published):
        ranking = ranker.rank("user-1", trained.items, k=100)
        assert set(ranker.rank("nobody", k=100).items) == set(trained.items)
    expected = trained.expected_scores("user-1", ranking.items, trained.time_ms)
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-5)


# --- TLS and users


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with secured(tmp_path_factory.mktemp("secured")) as found:
        yield found


@pytest.mark.parametrize("layout", ["fast", "compact"])
def test_over_tls_with_users_of_few_rights(trained: Films, urls: dict[str, str], layout: str) -> None:
    model = f"tls-{layout}"
    for run in ("r1", "r2"):
        named = Layout(model=model, run=run, layout=layout, num_buckets=5)  # type: ignore[arg-type]
        publish(trained, urls["publisher"], named, f"{model}-{run}")
    assert_served(trained, urls["ranker"], model)
    client = open_client(urls["publisher"])
    assert [version.run for version in list_versions(client, model)] == ["r2", "r1"]
    roll_back(client, model)
    assert Lookup.connect(urls["ranker"], model).embed("item", [1]).versions.run == "r1"
    assert remove_version(client, model, "r2") > 0
    check_redis(urls["ranker"])


def test_a_reader_can_not_write(urls: dict[str, str]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        open_client(urls["ranker"]).set("recsys:m:current", "mine")
    with pytest.raises(redis.exceptions.NoPermissionError):
        open_client(urls["publisher"]).get("somebody:elses")


def test_a_wrong_password_and_a_certificate_that_nobody_trusts_are_told_without_secrets(urls: dict[str, str]) -> None:
    for user, named in (("nobody", "WRONGPASS|invalid username-password|AUTH"), ("untrusting", "(?i)certificate")):
        with pytest.raises(ServiceError, match=named) as raised:
            Lookup.connect(urls[user], "m").embeddings("item", [1])
        said = str(raised.value)
        assert "wrong" not in said.replace("WRONGPASS", "") and "sesame" not in said and "\n" not in said


# --- a cluster


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.mark.parametrize("layout", ["fast", "compact"])
def test_in_a_cluster(trained: Films, cluster_url: str, layout: str) -> None:
    model = f"cluster-{layout}"
    for run in ("r1", "r2"):
        named = Layout(model=model, run=run, cluster=True, layout=layout, num_buckets=40)  # type: ignore[arg-type]
        publish(trained, cluster_url, named, f"{model}-{run}")
    assert_served(trained, cluster_url, model)
    lookup = Lookup.connect(cluster_url, model)
    with contextlib.closing(lookup.published):
        found = lookup.embeddings("item", [1, 10**9, "tt3", 1])
    np.testing.assert_array_equal(found[0], found[3])
    with contextlib.closing(open_client(cluster_url)) as client:
        held = [len([*client.scan_iter(f"recsys:{model}:*", target_nodes=node)]) for node in client.get_primaries()]
        assert len(held) == 3 and min(held) > 0.1 * sum(held)  # spread over all
        assert roll_back(client, model) == "r1"
        assert remove_version(client, model, "r2") > 0
        assert [version.run for version in list_versions(client, model)] == ["r1"]


def test_when_slots_move_rows_are_found_again(trained: Films, cluster_url: str) -> None:
    """One slot with its keys goes to another node; a reader that knew it elsewhere asks there."""
    layout = Layout(model="moved", run="r1", cluster=True, num_buckets=1)
    publish(trained, cluster_url, layout, "moved")
    lookup, client = Lookup.connect(cluster_url, "moved"), open_client(cluster_url)
    before = lookup.embeddings("item", [1, 4])
    slot = client.keyslot(layout.row_keys("item", np.array([1]))[0])
    source = client.nodes_manager.get_node_from_slot(slot)
    target = next(node for node in client.get_primaries() if node.name != source.name)
    source_id, target_id = (
        client.get_redis_connection(node).execute_command("CLUSTER", "MYID") for node in (source, target)
    )
    at_source, at_target = client.get_redis_connection(source), client.get_redis_connection(target)
    at_target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    at_source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    for key in at_source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        at_source.migrate(target.host, target.port, key, 0, 5000)
    for node in client.get_primaries():
        client.get_redis_connection(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    np.testing.assert_array_equal(lookup.embeddings("item", [1, 4]), before)
    lookup.published.close()
    client.close()


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"no node of the Redis cluster at .* answers") as raised:
        Lookup.connect("redis+cluster://ranker:sesame@127.0.0.1:1").embeddings("item", [1])
    assert "sesame" not in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="is no Redis URL"):
        open_client("redi://x")
