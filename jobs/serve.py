"""Serve lookups and rankings over HTTP: ``python -m jobs.serve port=8000``."""

import logging
from pathlib import Path
from typing import Any

import uvicorn

from jobs.launch import job
from recsys.embedded.process import wanted_port
from recsys.runtime.latest import open_redis
from recsys.serving import Lookup, Ranker
from recsys.serving.app import build_app


@job("serve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Answer until Ctrl-C."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    port = wanted_port(config["port"], "port")
    run = config["run"]
    with open_redis(config["redis"]["url"], None if run is None else Path(run)) as url:
        app = build_app(Lookup.connect(url, config["model"]), Ranker.connect(url, config["model"]))
        print(f"serving on http://{config['host']}:{port}/docs, from the Redis at {_shown(url)}", flush=True)
        uvicorn.run(app, host=config["host"], port=port, log_config=None)


def _shown(url: str) -> str:
    """The URL without a password."""
    return url.rpartition("@")[2] if "@" in url else url


if __name__ == "__main__":
    main()
