"""Put users and items into buckets for table=graphhash: ``python -m jobs.cluster interactions=gowalla gamma=200``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job, shown
from recsys.datasets.interaction_files import InteractionFiles, data_folder
from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Below, Between, build
from recsys.graphs.methods import Method

if TYPE_CHECKING:
    from recsys.graphs.bipartite import Bipartite
    from recsys.tables.bucket_map import BucketMap

Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """One of ``gamma``, ``num_buckets``, ``budget_bytes``, ``like``: another map, whose numbers of rows are taken, and
    ``grow``: another map, to whose clusters ids are added that are in none.

    ``embedding_dim`` is that of the float32 rows which a budget counts beside the map.
    """

    interactions: InteractionFiles
    method: Method
    seed: Annotated[int, AtLeast(0)]
    gamma: Annotated[float, Above(0)] | None
    num_buckets: Count | None
    budget_bytes: Count | None
    like: Path | None
    grow: Path | None
    embedding_dim: Count
    own_fraction: Annotated[float, Between(0, 1)] | None
    item_fraction: Annotated[float, Above(0), Below(1)] | None
    map: Path

    def __post_init__(self) -> None:
        sizes = {
            "gamma": self.gamma, "num_buckets": self.num_buckets, "budget_bytes": self.budget_bytes,
            "like": self.like, "grow": self.grow,
        }  # fmt: skip
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(f"{' and '.join(given) or 'nothing'} is given; give one of {', '.join(sizes)}")
        if self.method != "graphhash" and self.gamma is not None:
            raise ConfigError(f"gamma={self.gamma} is of method=graphhash, not {self.method}; give num_buckets or like")
        if self.grow is not None and (self.method != "graphhash" or self.own_fraction or self.item_fraction):
            raise ConfigError(f"grow={self.grow} adds to that map as it is; leave method and fractions as they are")
        if self.item_fraction is not None and (self.method != "graphhash" or {*given} & {"gamma", "budget_bytes"}):
            raise ConfigError(
                f"item_fraction={self.item_fraction} goes with method=graphhash and num_buckets or like, not with "
                f"method={self.method} and {given[0]}"
            )


@job("cluster")
def main(config: dict[str, Any], folder: Path) -> None:
    """Read the interactions, make the map, and leave it with a plot of how many ids share a bucket."""
    settings = build(ClusterSettings, config, "")

    import time

    from rich.console import Console

    from recsys.datasets.interactions import read_interactions
    from recsys.graphs.bipartite import Bipartite
    from recsys.tables.bucket_files import write_map

    console, start = Console(highlight=False, soft_wrap=True), time.perf_counter()

    def tell(line: str) -> None:
        console.print(f"{time.perf_counter() - start:6.1f} s  {line}")

    found = read_interactions(settings.interactions, data_folder(), settings.seed)
    graph = Bipartite.of(found.train.users_E, found.train.items_E, found.num_users, found.num_items)
    tell(f"{found.name}: {graph.num_edges:,} pairs to learn from, {graph.num_users:,} users, {graph.num_items:,} items")
    made = _made(settings, graph, tell)
    write_map(settings.map, made)
    report = settings.map.with_suffix(".html")
    _report(report, made, graph)
    full_rows = graph.num_users + graph.num_items
    tell(
        f"{made.num_buckets:,} rows for {full_rows:,} ids ({full_rows / made.num_buckets:.1f} times fewer), map "
        f"{made.nbytes:,} bytes; in {shown(settings.map)}, sizes of buckets in {shown(report)}"
    )


def _made(settings: ClusterSettings, graph: "Bipartite", tell: Any) -> "BucketMap":
    """The map; each try of the bisection is told."""
    from recsys.tables.assign import assigned_map, clustered_map, grown_map, shares, uneven_map
    from recsys.tables.bucket_files import read_map

    if settings.grow is not None:
        made, num_joined = grown_map(graph, read_map(settings.grow, settings.interactions.name))
        tell(f"{num_joined:,} ids have joined the clusters of {shown(settings.grow)}")
        return made
    rows, row_bytes = settings.num_buckets, 4 * settings.embedding_dim
    if settings.method == "graphhash":
        if settings.like is not None:
            rows = read_map(settings.like, settings.interactions.name).num_buckets
        shared: dict[str, Any] = {
            "num_buckets": rows,
            "own_fraction": settings.own_fraction or 0.0,
            "on_try": lambda gamma, size: tell(f"gamma {gamma:,.4g}: {size:,.0f}"),
        }
        if settings.item_fraction is not None:
            made = uneven_map(graph, settings.interactions.name, item_fraction=settings.item_fraction, **shared)
        else:
            sized: dict[str, Any] = {
                "gamma": settings.gamma,
                "budget_bytes": settings.budget_bytes,
                "row_bytes": row_bytes,
            }
            made = clustered_map(graph, settings.interactions.name, **sized, **shared)
        tell(f"gamma {made.gamma:,.4g}, modularity {made.modularity:.4f}")
        return made
    if settings.like is not None:
        like = read_map(settings.like, settings.interactions.name)
        sizes = like.tables["user"].num_buckets, like.tables["item"].num_buckets
    else:
        sizes = shares(graph, rows or max(2, (settings.budget_bytes or 0) // row_bytes))
    own = 0.5 if settings.own_fraction is None else settings.own_fraction
    return assigned_map(graph, settings.interactions.name, settings.method, sizes, settings.seed, own)


def _report(path: Path, made: "BucketMap", graph: "Bipartite") -> None:
    """How many ids share a bucket, by the rank of the bucket."""
    import numpy as np

    from recsys.training.report import Plot, write_report

    series = {}
    for name, buckets in made.tables.items():
        buckets_N = buckets.buckets(np.arange(buckets.num_ids))
        sizes = np.sort(np.bincount(buckets_N[buckets_N >= 0], minlength=buckets.num_buckets))[::-1]
        places = np.unique(np.geomspace(1, len(sizes), 200).astype(int))
        series[f"{name}s"] = (places.tolist(), sizes[places - 1].tolist())
    summary = {**made.about(), "rows": made.num_buckets, "map_bytes": made.nbytes, "pairs": graph.num_edges}
    plot = Plot("Ids that share a bucket", "bucket, the largest first", "ids", series, log_x=True)
    write_report(path, title=f"Buckets of {made.data} by {made.method}", summary=summary, plots=[plot])


if __name__ == "__main__":
    main()
