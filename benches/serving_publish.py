"""Publish rows beside what is served, in a process of its own: what ``benches.serving`` measures lookups beside."""

import sys

from benches.serving_data import rows_alone
from recsys.embedded.redis_url import open_client
from recsys.rows.layout import Layout
from recsys.sync.publisher import Publisher


def main(redis_url: str, num_rows: int, run: str) -> None:
    """Say a word before it begins."""
    store, _ = rows_alone(num_rows)
    publisher = Publisher(open_client(redis_url), store, [], Layout(model="published", run=run), time_ms=lambda: 1)
    print("publishing", flush=True)
    publisher.publish()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
