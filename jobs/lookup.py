"""Print the embeddings of ids, out of Redis, as JSON: ``python -m jobs.lookup feature=item ids=[1,2]``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from jobs.sections import Served, Text
from recsys.fields import NotEmpty, build


@dataclass(frozen=True, kw_only=True)
class LookupSettings(Served):
    """Which embeddings."""

    feature: Text
    ids: Annotated[tuple[int | str, ...], NotEmpty()]


@job("lookup")
def main(config: dict[str, Any], folder: Path) -> None:
    """Print one JSON object: the embeddings by id, and the versions they come from."""
    settings = build(LookupSettings, config, "")

    from recsys.runtime.latest import open_redis
    from recsys.serving import Lookup

    with open_redis(settings.redis.url, settings.run) as url:
        found = Lookup.connect(url, settings.serving.model).embed(settings.feature, settings.ids)
    embeddings = {str(id_): vector.tolist() for id_, vector in zip(settings.ids, found.vectors_ND, strict=True)}
    print(json.dumps({"feature": settings.feature, "embeddings": embeddings, "versions": vars(found.versions)}))


if __name__ == "__main__":
    main()
