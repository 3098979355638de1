"""Prometheus and Grafana: every query is one, of metrics that there are, and is shown where people find it."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from recsys.runtime.metrics import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "recsys.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
NAME = re.compile(r"ray_(recsys_\w+?)(_bucket|_sum|_count)?(?=[^\w])")


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_is_one_of_metrics_that_are_exported(title: str, query: str) -> None:
    promql_parser.parse(query.replace("$__rate_interval", "1m"))
    found = NAME.findall(f"{query} ")
    assert found
    for name, part in found:
        metric = METRICS[name]
        assert (part == "_bucket") == (metric.kind == "histogram"), query  # its sum is a guess of Ray's
        if metric.kind != "gauge" and "Steps lost" not in title:
            assert f"rate(ray_{name}{part}[$__rate_interval])" in query
        for label in re.findall(r"\b(shard|worker|partition)\b", re.sub(r"ray_\w+", "", query)):
            assert metric.label == label, query


def test_every_metric_is_shown() -> None:
    shown = {name for _, query in QUERIES for name, _ in NAME.findall(f"{query} ")}
    assert shown == set(METRICS)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_legends_name_labels_that_the_query_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept - {"le"}
    assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "bytes")


def test_panels_are_apart_and_within_the_width() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(boxes)
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in itertools.combinations(boxes, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_the_dashboard_asks_the_prometheus_that_compose_starts() -> None:
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    used = {json.dumps(part["datasource"]) for panel in PANELS for part in (panel, *panel["targets"])}
    assert used == {json.dumps({"type": source["type"], "uid": source["uid"]})}
    assert source["url"] == "http://prometheus:9090" and "prometheus" in SERVICES
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/recsys.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts == {
        "./grafana/provisioning": "/etc/grafana/provisioning",
        "./grafana/dashboards": provider["options"]["path"],
    }
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/recsys.json"


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [found] = job["file_sd_configs"]
    assert found["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]  # LoopbackCluster.metrics_file
    assert "ray-files:/tmp/ray" in SERVICES["ray-head"]["volumes"]
    assert "ray-files:/tmp/ray:ro" in SERVICES["prometheus"]["volumes"]
    arguments = dict(word.removeprefix("--").split("=") for word in SERVICES["prometheus"]["command"])
    mounts = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {arguments["config.file"], arguments["storage.tsdb.path"]} <= mounts
