"""Where a run begins: at the beginning, or at a checkpoint of one that was cut off."""

from collections.abc import Callable
from pathlib import Path

from recsys.errors import ConfigError, DataError
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.run import Start
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.shards import position_of
from recsys.sync.publisher import published_versions
from recsys.training.archive import cut_archive
from recsys.training.checkpoint import Checkpoints, State, save_checkpoint
from recsys.training.predictions import carry_seen, drop_predictions
from recsys.training.reclustering import carried_over, differs_in_map_alone


def first_start(settings: OnlineSettings, events: Events, say: Callable[[str], None]) -> Start:
    """The beginning: what lies in the examples topic already was joined by an earlier run.

    With what ``start_from`` has learned; ConfigError where that is nothing, or was another model. Only its bucket map
    may be another: rows are carried over.
    """
    learned = _learned_elsewhere(settings, say)
    if isinstance(events, KafkaEvents):
        ends = events.examples_end()
        return Start(position={p.index: (offset, 0) for p, offset in ends.items()}, learned=learned)
    return Start(position=dict.fromkeys(range(events.num_partitions), (0, 0)), learned=learned)


def check_start_from(settings: OnlineSettings) -> None:
    """Before anything is started: a run that can not begin with what another has learned says so at once."""
    if settings.start_from is not None:
        _newest_of(settings, settings.start_from)


def _learned_elsewhere(settings: OnlineSettings, say: Callable[[str], None]) -> tuple[str, str] | None:
    """The checkpoint that a new run begins with; whom that had learned of is not new to this one either."""
    if settings.start_from is None:
        return None
    where, name = _newest_of(settings, settings.start_from)
    carry_seen(settings.start_from / "predictions", settings.folder / "predictions")
    say(f"beginning with what {settings.start_from} has learned: {name}")
    return _of_this_map(settings, where, name, say)


def _of_this_map(settings: OnlineSettings, where: str, name: str, say: Callable[[str], None]) -> tuple[str, str]:
    """The same checkpoint; or, where it is of another bucket map, one beside this run's, its rows carried over."""
    checkpoints = Checkpoints(where)
    if not differs_in_map_alone(checkpoints.load_state(name)[0].blueprint, settings.blueprint):
        return where, name
    carried = str(settings.folder / "carried")
    save_checkpoint(carried, carried_over(checkpoints.load(name), settings.blueprint))
    say("its rows are carried over to the buckets of table.map")
    return carried, Checkpoints(carried).names()[-1]


def _newest_of(settings: OnlineSettings, run: Path) -> tuple[str, str]:
    checkpoints = Checkpoints(run / "checkpoints")
    names = checkpoints.names()
    if not names:
        raise ConfigError(f"nothing to start from: no checkpoint in {run / 'checkpoints'}; give the folder of a run")
    state, _ = checkpoints.load_state(names[-1])
    different = _differences(settings, state)
    if different and not differs_in_map_alone(state.blueprint, settings.blueprint):
        raise ConfigError(
            f"start_from={run} was trained with another {', '.join(different)}; start with the settings that it had "
            "(they are in its .hydra/config.yaml), or without it"
        )
    return str(run / "checkpoints"), names[-1]


def resumed_start(
    settings: OnlineSettings, checkpoints: Checkpoints, redis_url: str, say: Callable[[str], None]
) -> Start:
    """A checkpoint of the run in ``settings.folder``; ConfigError where this run would be another."""
    name = settings.resume_from or checkpoints.names()[-1]
    _check_same(settings, checkpoints.load_state(name)[0])  # before anything is dropped
    if later := checkpoints.remove_after(name):
        say(f"{', '.join(later)} removed: of a future that is left")
    start, state = start_at(settings, checkpoints, name, redis_url)
    say(f"going on with {settings.folder} from {name}: step {state.step}")
    return start


def start_at(settings: OnlineSettings, checkpoints: Checkpoints, name: str, redis_url: str) -> tuple[Start, State]:
    """A checkpoint as a start. Predictions and archive of what is learned again are dropped; what is published comes
    after.
    """
    state, _ = checkpoints.load_state(name)
    drop_predictions(settings.folder / "predictions", after=state.step)
    cut_archive(settings.folder / "archive", after=state.step)
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
    different = _differences(settings, state)
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


def _differences(settings: OnlineSettings, state: State) -> list[str]:
    """What of a checkpoint's blueprint is not this run's."""
    held, ours = state.blueprint.to_json(), settings.blueprint.to_json()
    return sorted(name for name in ours if held.get(name) != ours[name])
