"""Where a run begins: at the beginning, or at a checkpoint of one that was cut off."""

from collections.abc import Callable

from recsys.errors import ConfigError, DataError
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.run import Start
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.shards import position_of
from recsys.sync.publisher import published_versions
from recsys.training.checkpoint import Checkpoints, State
from recsys.training.predictions import drop_predictions


def first_start(events: Events) -> Start:
    """The beginning: what lies in the examples topic already was joined by an earlier run."""
    if isinstance(events, KafkaEvents):
        ends = events.examples_end()
        return Start(position={partition.index: (offset, 0) for partition, offset in ends.items()})
    return Start(position=dict.fromkeys(range(events.num_partitions), (0, 0)))


def resumed_start(
    settings: OnlineSettings, checkpoints: Checkpoints, redis_url: str, say: Callable[[str], None]
) -> Start:
    """A checkpoint of the run in ``settings.folder``; ConfigError where this run would be another."""
    name = settings.resume_from or checkpoints.names()[-1]
    start, state = start_at(settings, checkpoints, name, redis_url)
    _check_same(settings, state)
    say(f"going on with {settings.folder} from {name}: step {state.step}")
    return start


def start_at(settings: OnlineSettings, checkpoints: Checkpoints, name: str, redis_url: str) -> tuple[Start, State]:
    """A checkpoint as a start. Predictions of what is learned again are dropped; what is published comes after."""
    state, _ = checkpoints.load_state(name)
    drop_predictions(settings.folder / "predictions", after=state.step)
    start = Start(
        position=position_of(state.position),
        step=state.step,
        checkpoint=name,
        joiners=state.joiners,
        published=published_versions(redis_url, settings.layout),
        time_ms=state.about["time_ms"],
    )
    return start, state


def _check_same(settings: OnlineSettings, state: State) -> None:
    """What a checkpoint was learned with is what it is gone on with; workers, shards and joiners may be others."""
    held, ours = state.blueprint.to_json(), settings.blueprint.to_json()
    different = sorted(name for name in ours if held.get(name) != ours[name])
    if state.about["data"] != settings.data_name:
        different.append("data")
    if different:
        raise ConfigError(
            f"{settings.folder} was trained with another {', '.join(different)}; resume it with the settings that it "
            "began with (they are in .hydra/config.yaml), or begin a new run"
        )
    if len(state.position) != settings.topology.num_partitions:
        raise DataError(
            f"{settings.folder} has {len(state.position)} partitions, source.num_partitions is "
            f"{settings.topology.num_partitions}; set it to {len(state.position)}"
        )
