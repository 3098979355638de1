"""The benchmark of the row stores: its contenders do the same work, and its quick form runs to the end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benches import rows
from benches.draws import Batch, batch_of, draw, keys_of, zipf_cdf
from benches.neighbours import Neighbours, _seconds_under
from benches.peers import GROUP, Fbgemm, Gather, Ours, ZeroCollision, aligned_floats, row_group
from benches.result import Target, against, left_out
from benches.row_measures import Call, Sizes, rates
from benches.tfra import Tfra
from recsys.errors import ConfigError, DependencyError

NUM_ROWS, NUM_IDS, WIDTH = 500, 200, 4
FIELDS = {
    *("measure", "unit", "ours", "peer", "peer_value", "ratio", "spread"),
    *("target", "bound", "met", "note", "quiet"),
}


@pytest.fixture
def gradients() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((NUM_IDS, WIDTH), np.float32)


@pytest.fixture
def ours(gradients: np.ndarray) -> Ours:
    """A filled store."""
    ours = Ours(row_group(WIDTH), np.zeros_like(gradients), threads=2)
    ours.fill(NUM_ROWS)
    return ours


def all_rows(ours: Ours) -> np.ndarray:
    return ours.store.pull({GROUP: keys_of(np.arange(NUM_ROWS))})[GROUP]


def test_a_gather_reads_the_rows_that_are_asked_for(gradients: np.ndarray) -> None:
    gather = Gather(NUM_ROWS, NUM_IDS, WIDTH, huge_pages=True)
    gather.rows_RW.copy_(torch.arange(NUM_ROWS * WIDTH).reshape(NUM_ROWS, WIDTH))
    (batch,) = draw("uniform", NUM_ROWS, NUM_IDS, 1, seed=0)
    assert gather.pull(batch) > 0
    assert (gather.out_NW[:, 0].numpy() == batch.rows_N * WIDTH).all()


def test_fbgemm_does_the_step_that_we_do(ours: Ours, gradients: np.ndarray) -> None:
    peer = Fbgemm(NUM_ROWS, gradients)
    peer.rows_RW.copy_(torch.from_numpy(all_rows(ours)))
    assert_same_step(ours, peer, gradients, np.arange(NUM_ROWS))


def test_torchrec_does_the_step_that_we_do(ours: Ours, gradients: np.ndarray) -> None:
    peer = ZeroCollision(NUM_ROWS, gradients, num_calls=2)
    by_key = np.argsort(keys_of(np.arange(NUM_ROWS)))
    peer.rows_RW.copy_(torch.from_numpy(all_rows(ours)[by_key]))
    assert_same_step(ours, peer, gradients, np.argsort(by_key))


def assert_same_step(ours: Ours, peer: Fbgemm | ZeroCollision, gradients: np.ndarray, place_of_row: np.ndarray) -> None:
    before = all_rows(ours)
    ours.gradients_NW[:] = gradients
    for batch in draw("zipf", NUM_ROWS, NUM_IDS, 2, seed=3):
        assert ours.step(batch) > 0
        assert peer.step(batch) > 0
    after = all_rows(ours)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(peer.rows_RW.detach().numpy()[place_of_row], after, atol=1e-5)


def test_all_contenders_are_asked_for_the_same_ids() -> None:
    for law in ("uniform", "zipf"):
        for batch in draw(law, NUM_ROWS, NUM_IDS, 3, seed=5):  # type: ignore[arg-type]
            assert batch.rows_N.min() >= 0
            assert batch.rows_N.max() < NUM_ROWS
            assert (batch.keys_N == keys_of(batch.rows_N)).all()
    assert len(np.unique(keys_of(np.arange(100_000)))) == 100_000


def test_zipf_draws_each_rank_as_often_as_the_law_says() -> None:
    (batch,) = draw("zipf", 100, 200_000, 1, seed=7)
    seen = np.sort(np.bincount(batch.rows_N, minlength=100) / 200_000)[::-1]
    law = np.arange(1, 101) ** -1.2
    np.testing.assert_allclose(seen[:20], (law / law.sum())[:20], rtol=0.08)
    np.testing.assert_allclose(zipf_cdf(100), np.cumsum(law / law.sum()), rtol=1e-12)
    assert np.argmax(np.bincount(batch.rows_N)) != 0  # the most popular id lies anywhere


def test_memory_starts_at_a_cache_line() -> None:
    rows_RW = aligned_floats(7, 3)
    assert rows_RW.shape == (7, 3)
    assert rows_RW.ctypes.data % 64 == 0
    assert not rows_RW.any()


def test_ratio_is_taken_round_by_round() -> None:
    # one round in which the machine slept: both are slow, and the ratio keeps nothing of it
    ours_R, peer_R = np.array([40.0, 4.0, 40.0]), np.array([10.0, 1.0, 10.0])
    result = against("step", "M/s", ours_R, "peer", peer_R, Target(value=4))
    assert (result.ratio, result.spread, result.met) == (4.0, 0.0, True)
    assert result.to_json()["bound"] == "least"


def test_rounds_that_differ_by_much_meet_nothing() -> None:
    result = against("step", "M/s", np.array([4.0, 40.0, 8.0]), "peer", np.ones(3), Target(value=4))
    assert result.ratio == 8.0
    assert result.met is None


def test_what_was_measured_beside_other_programs_meets_nothing() -> None:
    steady = against("step", "M/s", np.full(3, 8.0), "peer", np.ones(3), Target(value=4))
    assert steady.met is True
    assert replace(steady, quiet=False).met is None


def test_neighbours_are_those_whose_work_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"busy": 100.0, "own": 7.0, "now": 50.0}
    monkeypatch.setattr("benches.neighbours._busy_seconds", lambda: clock["busy"])
    monkeypatch.setattr("benches.neighbours._seconds_under", lambda root: clock["own"])
    monkeypatch.setattr("benches.neighbours.time.perf_counter", lambda: clock["now"])
    neighbours = Neighbours()
    clock.update(busy=118.0, own=22.0, now=60.0)  # 18 s of work in 10 s, 15 of them ours
    assert neighbours.cores_used() == pytest.approx(0.3)


def test_what_a_program_has_started_is_its_own(tmp_path: Path) -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass\nopen('done', 'w').close(); time.sleep(60)"
    before = _seconds_under(os.getpid())
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    with subprocess.Popen([sys.executable, "-c", grandchild], cwd=tmp_path, start_new_session=True) as child:
        deadline = time.monotonic() + 60
        while not (tmp_path / "done").exists():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        alive = _seconds_under(os.getpid())
        os.killpg(child.pid, signal.SIGKILL)
    assert 0.5 <= alive - before < 20


def test_a_round_is_its_best_turn_and_each_has_the_same_batch() -> None:
    batches = draw("uniform", NUM_ROWS, NUM_IDS, 2, seed=0)
    asked: dict[str, list[int]] = {"a": [], "b": []}

    def contender(name: str, seconds: list[float]) -> Call:
        def call(batch: Batch) -> float:
            asked[name].append(next(at for at, known in enumerate(batches) if known is batch))
            return seconds[len(asked[name]) - 1]

        return call

    calls = {"a": contender("a", [9.0, 1.0, 2.0, 4.0, 3.0]), "b": contender("b", [9.0, 5.0, 4.0, 2.0, 2.0])}
    found = rates(calls, batches, num_rounds=2, best_of=2)  # the first call of each only warms up
    assert (NUM_IDS / 1e6 / found["a"]).round(9).tolist() == [1.0, 3.0]
    assert (NUM_IDS / 1e6 / found["b"]).round(9).tolist() == [4.0, 2.0]
    assert asked["a"] == asked["b"] == [1, 0, 1, 0, 1]


def test_a_peer_that_is_not_there_is_said_and_meets_nothing() -> None:
    line = left_out("step", "M/s", [2.0], "peer", "not installed", Target(value=4)).to_json()
    assert line["peer"] == "peer"
    assert line["met"] is None
    assert line["note"] == "not measured: not installed"


def test_tfra_without_its_packages_says_what_it_needs(tmp_path: Path, gradients: np.ndarray) -> None:
    with pytest.raises(DependencyError, match=r"tensorflow-recommenders-addons==0\.8\.1"):
        Tfra(Path(sys.executable), tmp_path, gradients, threads=2)
    assert "tensorflow" in (tmp_path / "tfra.log").read_text()
    with pytest.raises(DependencyError, match="can not be run"):
        Tfra(tmp_path / "python", tmp_path, gradients, threads=2)


def test_tfra_answers_are_those_of_its_process(tmp_path: Path, gradients: np.ndarray) -> None:
    """The other end of the pipe, by a stand-in that counts the keys which it is sent."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"#!{sys.executable}\nimport json, sys, numpy\nprint(json.dumps({{'version': '1.2'}}), flush=True)\n"
        "for line in sys.stdin:\n    asked = json.loads(line)\n"
        "    print(json.dumps({'seconds': len(numpy.load(asked['keys'])) + len(asked['call'])}), flush=True)\n"
    )
    stand_in.chmod(0o755)
    batch: Batch = batch_of(np.arange(30))
    with Tfra(stand_in, tmp_path, gradients, threads=2) as tfra:
        assert tfra.version == "1.2"
        assert (tfra.insert(batch), tfra.pull(batch), tfra.step(batch)) == (36.0, 34.0, 34.0)


def test_tfra_that_dies_on_the_way_is_said(tmp_path: Path, gradients: np.ndarray) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\nprint('{{\"version\": 1}}', flush=True)\n")
    stand_in.chmod(0o755)
    with (
        Tfra(stand_in, tmp_path, gradients, threads=2) as tfra,
        pytest.raises(DependencyError, match="ended with status 0"),
    ):
        tfra.step(batch_of(np.arange(30)))


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        Sizes(rows=1000, ids=300)


def test_quick_form_writes_every_measure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert rows.main(["--quick", "--folder", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    results = json.loads((tmp_path / "rows.json").read_text())
    for line in results:
        assert set(line) == FIELDS
        assert line["ours"] > 0
        assert (line["ratio"] is None) == (line["peer_value"] is None)
        assert line["ratio"] is None or line["ratio"] > 0
    peers = {line["peer"] for line in results if line["peer_value"]}
    assert peers == {Gather.name, f"{Gather.name}, huge pages", Fbgemm.name, ZeroCollision.name, "memory, 64 B reads"}
    assert {line["peer"] for line in results if line["note"].startswith("not measured")} == {Tfra.name}
    assert sum(line["target"] is not None for line in results) == 14
    for part in ("pull, Zipf 1.2", "inserting new ids", "longest pull", "bytes a row", "first use"):
        assert any(line["measure"].startswith(part) for line in results), part
    report = (tmp_path / "rows.html").read_text()
    assert report.count('<svg class="plot"') == 4
    assert "give --tfra PYTHON" in capfd.readouterr().out


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows.main(["--rows", "10"]) == 2
    assert capsys.readouterr().err == "error: rows=10: give a whole number of at least 1000\n"
