"""Checkpoints of models of sessions: cut off and gone on with, loaded, and refused."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.questions import before
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.rows.local import LocalRows
from recsys.sessions.log import TEST, TRAIN, UserSplit
from recsys.sessions.planted import Planted, plant
from recsys.training.session_checkpoint import SessionCheckpoints, SessionKeeper, load_run, open_resumed
from recsys.training.session_trainer import SessionCourse, TrainedSessions, fit_sessions

LOG = plant(Planted(num_users=12, num_sessions=10, num_tracks=120, split=UserSplit(valid=1, test=2))).log
ABOUT = {"patience": 9}


def blueprint(kind: str = "pisa", **fields: object) -> SessionBlueprint:
    return SessionBlueprint(
        table={"kind": "full", "embedding_dim": 8, "initial_scale": 0.1},
        model={"kind": kind, **fields},
        optimizer={"kind": "adam", "learning_rate": 0.02},
        dense_optimizer={"kind": "adam", "learning_rate": 0.002},
    )


def learn(folder: Path, said: SessionBlueprint, epochs: int, patience: int = 9, resume: bool = False) -> list:
    trained = TrainedSessions(said, LOG)
    begun = open_resumed(folder, LOG, said, ABOUT) if resume else None
    trained.start(LocalRows(trained.groups), None if begun is None else begun.rows)
    return fit_sessions(
        trained, LOG, epochs=epochs, batch_size=8, patience=patience, seed=0,
        keeper=SessionKeeper(folder, trained, LOG, ABOUT), course=None if begun is None else begun.course,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["pisa", "sasrec"])  # the second draws dropout
def test_a_run_that_is_cut_off_ends_as_one_that_was_not(tmp_path: Path, kind: str) -> None:
    learn(tmp_path / "cut", blueprint(kind), epochs=2)
    assert learn(tmp_path / "cut", blueprint(kind), epochs=4, resume=True) == learn(
        tmp_path / "whole", blueprint(kind), epochs=4
    )
    for kept in ("checkpoints", "best"):
        cut, whole = (SessionCheckpoints(tmp_path / run / kept).load(LOG) for run in ("cut", "whole"))
        assert cut.course == whole.course
        assert cut.rows.cursor == whole.rows.cursor
        for name, group in whole.rows.groups.items():
            assert np.array_equal(cut.rows.groups[name].rows_UW, group.rows_UW)
            assert all(np.array_equal(cut.rows.groups[name].state[part], of) for part, of in group.state.items())
    assert SessionCheckpoints(tmp_path / "cut" / "checkpoints").names() == ["checkpoint-000003", "checkpoint-000004"]


def test_patience_goes_on_across_a_cut() -> None:
    course = SessionCourse()
    told = [course.ended(1.0, ndcg, patience=2) for ndcg in (0.2, 0.3, 0.1)]
    assert (told, course.best_at, course.finished) == ([True, True, False], 1, False)
    again = SessionCourse(**vars(course))
    assert not again.ended(1.0, 0.3, patience=2)
    assert (again.finished, again.epoch) == (True, 4)
    blind = SessionCourse()  # without sessions to validate by, the last is the best
    assert [blind.ended(1.0, float("nan"), patience=1) for _ in range(3)] == [True] * 3
    assert not blind.finished


def test_a_trained_run_is_loaded_without_its_log_and_answers_the_same(tmp_path: Path) -> None:
    said = blueprint("pisa", window=6)
    trained = TrainedSessions(said, LOG)
    trained.start(LocalRows(trained.groups))
    fit_sessions(
        trained, LOG, epochs=3, batch_size=8, patience=9, seed=0, keeper=SessionKeeper(tmp_path, trained, LOG, ABOUT)
    )
    run = load_run(tmp_path)
    assert run.catalogue.track_ids == list(LOG.track_ids)
    assert run.catalogue.counts_V.tolist() == LOG.play_counts(TRAIN).tolist()
    asked = before(LOG, LOG.sessions_of(TEST))
    run.recommender.model.know(LOG)
    assert np.array_equal(run.recommender.answer(run.recommender.read(run.store), asked), trained.scores(asked))


def test_a_catalogue_is_what_it_was() -> None:
    together = TrainedSessions(blueprint(), LOG).model.together
    catalogue = Catalogue(["a", 7, "1"], np.array([1.0, 0.0, 2.5]), 10, None)
    again = Catalogue.from_bytes(catalogue.to_bytes())
    assert (again.track_ids, again.counts_V.tolist(), again.together) == (["a", 7, "1"], [1.0, 0.0, 2.5], None)
    assert again.popular(2) == ["1", "a"]
    assert together is not None
    whole = Catalogue.from_bytes(Catalogue.of(LOG, TrainedSessions(blueprint(), LOG).model).to_bytes())
    assert whole.together is not None
    assert np.array_equal(whole.together.spreading(LOG.tracks_SK), together.spreading(LOG.tracks_SK))
    with pytest.raises(DataError, match="can not be read"):
        Catalogue.from_bytes(b"none")


def test_what_can_not_be_gone_on_from_or_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no catalogue\.safetensors"):
        load_run(tmp_path)
    learn(tmp_path, blueprint(), epochs=1)
    with pytest.raises(ConfigError, match=r"model\.window was None, and is 4 now"):
        open_resumed(tmp_path, LOG, blueprint(window=4), ABOUT)
    with pytest.raises(ConfigError, match="patience was 9, and is 3 now"):
        open_resumed(tmp_path, LOG, blueprint(), {"patience": 3})
    state = tmp_path / "best" / "checkpoint-000001" / "state.json"
    state.write_text(state.read_text().replace("pisa", "pism"))
    with pytest.raises(DataError, match=r"state\.json is altered"):
        load_run(tmp_path)
    with pytest.raises(DataError, match="no checkpoint in"):
        SessionCheckpoints(tmp_path / "nowhere").load(LOG)
