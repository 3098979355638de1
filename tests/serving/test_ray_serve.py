"""The service on Ray Serve, on loopback: its answers are the ranker's."""

import json
import os
import subprocess
import sys

import pytest
from served_films import films

from recsys.serving import Ranker

# In a process of its own: Ray Serve warns of its own pydantic, and keeps actors of its own.
SERVES = """
import json, socket, sys, urllib.request
from ray import serve
from recsys.runtime.cluster import ray_session
from recsys.runtime.deployment import serving_application

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
body = json.dumps({"user": 3, "candidates": [5, 1, 9, 2], "k": 3}).encode()
request = urllib.request.Request(
    f"http://127.0.0.1:{port}/v1/rank", body, {"content-type": "application/json", "authorization": "Bearer sesame"}
)
with ray_session():
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(serving_application(redis_url=sys.argv[1], model="on-serve", token_env="SERVING_TOKEN"))
        with urllib.request.urlopen(request, timeout=30) as answer:
            print("answered", answer.read().decode())
    finally:
        serve.shutdown()
"""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ray_serve_ranks_as_the_ranker_does(redis_url: str) -> None:
    films("collisionless").serve(redis_url, "on-serve")
    done = subprocess.run(
        [sys.executable, "-c", SERVES, redis_url],
        capture_output=True,
        text=True,
        env={**os.environ, "SERVING_TOKEN": "sesame"},
    )
    said = [line.removeprefix("answered ") for line in done.stdout.splitlines() if line.startswith("answered ")]
    assert len(said) == 1, done.stderr[-3000:]
    expected = Ranker.connect(redis_url, "on-serve").rank(3, [5, 1, 9, 2], k=3)
    answer = json.loads(said[0])
    assert (answer["items"], answer["titles"]) == (expected.items, expected.titles)
    assert answer["scores"] == pytest.approx(expected.scores, abs=1e-6)
    assert answer["versions"]["run"] == "r1"
