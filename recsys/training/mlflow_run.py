"""A run's figures in MLflow, by its REST API: parameters at the start, metrics as they come, how it ended.

No client library: what is needed of it are five requests of JSON. Which MLflow run a folder's figures go to is noted in
``mlflow.json`` there, so that a run that is resumed goes on in it.
"""

import json
import logging
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from recsys.errors import ServiceError
from recsys.fields import Above, NotEmpty

_NOTE = "mlflow.json"
_MOST_PARAMETERS = 100  # of a request, by MLflow's own rule
_MOST_CHARACTERS = 500  # of a parameter
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MlflowSection:
    """``mlflow``: where its server is, as http://HOST:5000; None: figures stay in the run's folder."""

    url: Annotated[str, NotEmpty()] | None = None
    experiment: Annotated[str, NotEmpty()] = "recsys"
    timeout_seconds: Annotated[float, Above(0)] = 10.0


class MlflowRun:
    """One run there. ServiceError where the server does not answer at the start; later it is a warning."""

    def __init__(self, section: MlflowSection, folder: Path, parameters: Mapping[str, Any]) -> None:
        assert section.url is not None
        self._base = section.url.rstrip("/") + "/api/2.0/mlflow/"
        self._timeout_seconds = section.timeout_seconds
        note = folder / _NOTE
        if note.exists():
            self.run_id = str(json.loads(note.read_text(encoding="utf-8"))["run_id"])
            return
        self.run_id = self._begin(section.experiment, folder.name)
        self._log_parameters(flat(parameters))
        note.write_text(json.dumps({"run_id": self.run_id, "url": section.url}) + "\n", encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after a step; what is undefined is left out."""
        now_ms = int(1000 * time.time())
        metrics = [
            {"key": name, "value": float(value), "timestamp": now_ms, "step": step}
            for name, value in values.items()
            if not math.isnan(value)
        ]
        self._try("runs/log-batch", {"run_id": self.run_id, "metrics": metrics})

    def close(self, *, finished: bool) -> None:
        """Say how it ended."""
        status = "FINISHED" if finished else "KILLED"
        self._try("runs/update", {"run_id": self.run_id, "status": status, "end_time": int(1000 * time.time())})

    def _begin(self, experiment: str, name: str) -> str:
        """A new run, in an experiment that is made where it is absent; its id."""
        found = self._asked(f"experiments/get-by-name?experiment_name={urllib.parse.quote(experiment)}")
        if found is None:
            found = {"experiment": self._asked("experiments/create", {"name": experiment})}
        about = {
            "experiment_id": found["experiment"]["experiment_id"],
            "run_name": name,
            "start_time": int(1000 * time.time()),
        }
        return str(self._asked("runs/create", about)["run"]["info"]["run_id"])

    def _log_parameters(self, parameters: Mapping[str, str]) -> None:
        said = [{"key": name, "value": value[:_MOST_CHARACTERS]} for name, value in parameters.items()]
        for start in range(0, len(said), _MOST_PARAMETERS):
            self._asked("runs/log-batch", {"run_id": self.run_id, "params": said[start : start + _MOST_PARAMETERS]})

    def _try(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            self._asked(path, body)
        except ServiceError as error:
            _log.warning("%s; training goes on, and its figures are in the run's folder", error)

    def _asked(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """An answer; None where what is asked for is not there. A POST with a body, else a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and body is None:
                    return None
                raise ServiceError(f"MLflow at {self._base} refused {path} ({error.code} {error.reason})") from error
        except (OSError, ValueError) as error:
            raise ServiceError(
                f"MLflow at {self._base} does not answer ({error}); start it, or leave out mlflow.url"
            ) from error


def flat(values: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Options by dotted names, as text.

    >>> flat({"seed": 1, "model": {"kind": "fm"}})
    {'seed': '1', 'model.kind': 'fm'}
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        key = f"{within}.{name}" if within else name
        found |= flat(value, key) if isinstance(value, Mapping) else {key: str(value)}
    return found
