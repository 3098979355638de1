"""The benchmark of the streams: its data is what it says, and its quick form runs to the end against a real broker."""

import json
from pathlib import Path

import pytest

from benches import stream
from benches.stream_data import FEATURES, NUM_PARTITIONS, event_messages, example_messages
from recsys.batches.examples import decode_rows, to_batch
from recsys.embedded.kafka import kafka_unavailable
from recsys.events import decode


def test_the_messages_are_events_and_examples() -> None:
    shown = [decode(partition.topic, payload) for partition, payload in event_messages("impressions", 40)]
    assert len({event.request_id for event in shown}) == 40
    messages = list(example_messages("examples", 50, 3))
    assert [partition.index for partition, _ in messages] == 3 * list(range(NUM_PARTITIONS))
    numbers = dict.fromkeys(range(NUM_PARTITIONS), 0)
    last_ms = dict.fromkeys(range(NUM_PARTITIONS), 0)
    for partition, payload in messages:
        part, index = decode_rows(payload), partition.index
        times_ms = part.rows.column("emitted_ms").to_pylist()
        assert part.first == numbers[index] and min(times_ms) >= max(last_ms[index], part.watermark_ms)
        numbers[index], last_ms[index] = part.first + part.rows.num_rows, max(times_ms)
        batch = to_batch(part.rows, FEATURES)
        assert batch.num_examples == 50 and len(batch.bags) == 9 and batch.numbers_BM.shape == (50, 3)
    assert set(numbers.values()) == {150}


def test_the_quick_form_runs_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    assert stream.main(["--quick", "--folder", str(tmp_path)]) == 0
    results = {result["measure"]: result for result in json.loads((tmp_path / "stream.json").read_text())}
    assert results["JSON events read and decoded"]["target"] == 0.7
    of_examples = [name for name in results if name.startswith("Arrow examples of 12 features to batches of")]
    assert len(of_examples) == 3 and all(results[name]["target"] == 500_000 for name in of_examples)
    assert all(result["ours"] > 0 for result in results.values())
    assert (tmp_path / "stream.html").exists() and "Streams" in capsys.readouterr().out
