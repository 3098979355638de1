"""What a run tells MLflow, heard by a server that speaks its REST API."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ServiceError
from recsys.training.mlflow_run import MlflowRun, MlflowSection

Heard = list[tuple[str, Any]]


class _Server(BaseHTTPRequestHandler):
    heard: Heard

    def do_GET(self) -> None:
        self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    def do_POST(self) -> None:
        path = self.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.heard.append((path, body))
        answers = {"experiments/create": {"experiment_id": "3"}, "runs/create": {"run": {"info": {"run_id": "r1"}}}}
        self._answer(200, answers.get(path, {}))

    def _answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, Heard]]:
    heard: Heard = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (_Server,), {"heard": heard})) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", heard
        listening.shutdown()
        thread.join()


def test_a_run_is_told_and_goes_on_as_the_same(server: tuple[str, Heard], tmp_path: Path) -> None:
    url, heard = server
    section = MlflowSection(url=url + "/", experiment="films")
    run = MlflowRun(section, tmp_path, {"seed": 1, "model": {"kind": "fm"}})
    run.add(20, {"train/loss": 0.5, "valid/auc": float("nan")})
    run.close(finished=False)
    again = MlflowRun(section, tmp_path, {"seed": 1})
    again.close(finished=True)
    assert [path for path, _ in heard] == [
        "experiments/create", "runs/create", "runs/log-batch", "runs/log-batch", "runs/update", "runs/update",
    ]  # fmt: skip
    assert heard[0][1] == {"name": "films"}
    assert heard[1][1]["experiment_id"] == "3" and heard[1][1]["run_name"] == tmp_path.name
    assert heard[2][1]["params"] == [{"key": "seed", "value": "1"}, {"key": "model.kind", "value": "fm"}]
    (metric,) = heard[3][1]["metrics"]
    assert (metric["key"], metric["value"], metric["step"]) == ("train/loss", 0.5, 20)
    assert [body["status"] for path, body in heard if path == "runs/update"] == ["KILLED", "FINISHED"]
    assert {body["run_id"] for path, body in heard[2:]} == {"r1"}


def test_a_server_that_is_not_there(server: tuple[str, Heard], tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(ServiceError, match=r"does not answer .* leave out mlflow\.url"):
        MlflowRun(MlflowSection(url="http://127.0.0.1:1"), tmp_path, {})
    run = MlflowRun(MlflowSection(url=server[0]), tmp_path, {})
    run._base = "http://127.0.0.1:1/"
    with caplog.at_level(logging.WARNING):
        run.add(1, {"loss": 1.0})
    assert "training goes on" in caplog.text
