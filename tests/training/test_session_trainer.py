"""Models of sessions over a row store: any kind of table, the best epoch, the same seed."""

import numpy as np
import pytest
import torch
from table_kinds import SMALL

from recsys.errors import ConfigError, DataError
from recsys.models.sessions import LEARNED
from recsys.models.sessions.learned import Items
from recsys.models.sessions.questions import before
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.ps.dense import DENSE
from recsys.rows.local import LocalRows
from recsys.sessions.log import TEST, UserSplit
from recsys.sessions.planted import Planted, plant
from recsys.tables import TABLES
from recsys.training.session_metrics import judge
from recsys.training.session_trainer import TrainedSessions, fit_sessions

LOG = plant(Planted(num_users=16, num_sessions=12, num_tracks=150, split=UserSplit(valid=1, test=2))).log


def trained(kind: str = "pisa", table: dict | None = None, rate: float = 0.02, **fields: object) -> TrainedSessions:
    found = TrainedSessions(
        SessionBlueprint(
            table={"kind": "full", "embedding_dim": 8, "initial_scale": 0.1, **(table or {})},
            model={"kind": kind, **fields},
            optimizer={"kind": "adam", "learning_rate": rate},
            dense_optimizer={"kind": "adam", "learning_rate": 0.002},
        ),
        LOG,
    )
    found.start(LocalRows(found.groups))
    return found


def fitted(found: TrainedSessions, epochs: int = 3, patience: int = 9) -> list[dict[str, float]]:
    return fit_sessions(found, LOG, epochs=epochs, batch_size=16, patience=patience, seed=0)


@pytest.mark.parametrize("kind", list(LEARNED))
def test_every_model_lowers_its_loss_and_the_same_seed_gives_the_same(kind: str) -> None:
    one, other = trained(kind), trained(kind)
    history = fitted(one)
    assert history[-1]["loss"] < history[0]["loss"]
    assert fitted(other) == history
    asked = before(LOG, LOG.sessions_of(TEST)[:3])
    assert np.array_equal(one.scores(asked), other.scores(asked))
    assert one.scores(before(LOG, np.array([0])))[0].tolist() == LOG.play_counts(0).tolist()  # no history


@pytest.mark.parametrize("table", sorted(TABLES))
def test_items_may_be_in_any_table(table: str) -> None:
    found = trained("pisa", {"kind": table, **SMALL[table]}, window=6)
    history = fitted(found)
    assert history[-1]["loss"] < history[0]["loss"]
    assert np.isfinite(found.scores(before(LOG, LOG.sessions_of(TEST)))).all()


def test_a_step_is_that_of_torch() -> None:
    """Rows and dense parameters after one SGD step, beside torch's own on the whole catalogue."""
    found = TrainedSessions(
        SessionBlueprint(
            table={"kind": "full", "embedding_dim": 8, "initial_scale": 0.1},
            model={"kind": "pisa", "window": 6},
            optimizer={"kind": "sgd", "learning_rate": 0.5},
            dense_optimizer={"kind": "sgd", "learning_rate": 0.5},
        ),
        LOG,
    )
    store = LocalRows(found.groups)
    found.start(store)
    everything = np.arange(LOG.num_tracks)
    rows = torch.from_numpy(store.pull({"track": everything})["track"]).requires_grad_()
    batch = next(found.model.batches(99, np.random.default_rng(1)))
    parameters = [parameter.detach().clone().requires_grad_() for parameter in found.parameters()]
    names = [f"model.{name}" for name, _ in found.model.named_parameters()]
    own = dict(zip(names, parameters, strict=True))
    loss = torch.func.functional_call(_Loss(found.model), own, (Items(everything, rows), batch))
    loss.backward()
    assert found.step(batch) == pytest.approx(loss.item(), rel=1e-5)
    assert rows.grad is not None
    expected = (rows - 0.5 * rows.grad).detach().numpy()
    assert store.pull({"track": everything})["track"] == pytest.approx(expected, abs=1e-6)
    flat = torch.cat([(p - 0.5 * p.grad).detach().reshape(-1) for p in parameters if p.grad is not None]).numpy()
    assert store.pull({DENSE: found.dense.keys})[DENSE].reshape(-1)[: len(flat)] == pytest.approx(flat, abs=1e-6)


class _Loss(torch.nn.Module):
    """A model's loss as its forward."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: object, batch: object) -> torch.Tensor:
        return self.model.loss(items, batch)  # type: ignore[operator]


def test_the_best_epoch_is_taken_and_patience_ends() -> None:
    found = trained("actr_bpr", rate=1.0)  # too high: it gets worse
    history = fitted(found, epochs=40, patience=2)
    best = max(range(len(history)), key=lambda at: history[at]["ndcg"])
    assert len(history) == best + 3
    again = judge(found, LOG, 1).mean("ndcg")
    assert again == pytest.approx(history[best]["ndcg"])


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match=r"session_model\.kind=global_top learns nothing by gradients"):
        trained("global_top")
    with pytest.raises(DataError, match=r"lower optimizer\.rows\.learning_rate|not finite|NaN"):
        fitted(trained("pisa", rate=1e30), epochs=3)
