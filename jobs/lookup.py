"""Embeddings out of Redis: ``python -m jobs.lookup feature=item ids=[1,2]``."""

import json
from pathlib import Path
from typing import Any

from jobs.launch import job
from recsys.runtime.latest import open_redis
from recsys.serving import Lookup


@job("lookup")
def main(config: dict[str, Any], folder: Path) -> None:
    """Print one JSON object: the embeddings by id, and the versions they come from."""
    run = config["run"]
    with open_redis(config["redis"]["url"], None if run is None else Path(run)) as url:
        found = Lookup.connect(url, config["model"]).embed(config["feature"], config["ids"])
    embeddings = {str(id_): vector.tolist() for id_, vector in zip(config["ids"], found.vectors_ND, strict=True)}
    print(json.dumps({"feature": config["feature"], "embeddings": embeddings, "versions": vars(found.versions)}))


if __name__ == "__main__":
    main()
