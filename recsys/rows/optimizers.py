"""Optimizers that a row store applies to the rows a push touches.

Frozen values: what they do is in ``updates.py``, which needs numba; serving reads these alone. Formulas and defaults
are torch's and, for row-wise Adagrad, fbgemm's EXACT_ROWWISE_ADAGRAD; the tests compare them step by step.

Only touched rows change, and Adam's bias correction counts a row's own steps. With ``weight_decay`` the result is that
of a dense run, in which every row decays at every step: a row catches up when it is touched or read (``decay.py``).
What moves a row that has no gradient, momentum included, is then part of the run: see ``lazy``.

A step is a push that names the row group; the first is step 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Below, build, choose
from recsys.rows.schedules import Schedule, build_schedule

Rate = Annotated[float, Above(0)]
Decay = Annotated[float, AtLeast(0)]
Beta = Annotated[float, AtLeast(0), Below(1)]
Count = Annotated[int, AtLeast(1)]


class Optimizer(Protocol):
    """What a row group needs of its optimizer."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def learning_rate(self) -> float:
        """The rate that ``schedule``, where there is one, takes a part of."""

    @property
    def schedule(self) -> Schedule | None:
        """How the rate changes."""

    @property
    def weight_decay(self) -> float:
        """Of the whole table, at every step."""

    @property
    def replay_steps(self) -> int:
        """How many missed steps are done one by one."""

    @property
    def lazy(self) -> Literal["never", "scale", "replay"]:
        """What an untouched row misses in a step: nothing, a factor, or a step of its own without a gradient."""

    def state_widths(self, width: int) -> dict[str, int]:
        """Name and width of each float32 state column of a row of ``width`` numbers."""

    def initial_state(self, name: str) -> float:
        """The value a fresh row's state starts from."""

    def settings(self) -> tuple[float, ...]:
        """The numbers that the kernel takes, after the learning rate."""


@dataclass(frozen=True, kw_only=True)
class _Rated:
    """What all have.

    ``weight_decay`` is coupled (added to the gradient times the row, L2) unless an optimizer says otherwise.
    ``replay_steps``: up to so many missed steps are caught up with one by one, those beyond in at most as many strides.
    """

    learning_rate: Rate
    schedule: Schedule | None = None
    weight_decay: Decay = 0.0
    replay_steps: Count = 1000

    def __post_init__(self) -> None:
        if self.learning_rate * self.weight_decay >= 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate} times weight_decay {self.weight_decay} takes all of a row in a "
                "step; lower one"
            )

    @property
    def lazy(self) -> Literal["never", "scale", "replay"]:
        """See Optimizer."""
        return "replay" if self.weight_decay else "never"

    def initial_state(self, name: str) -> float:
        """Zero, unless an optimizer says otherwise."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class SGD(_Rated):
    """row -= learning_rate * gradient. Missed decay is a product: exact for any number of steps."""

    kind: Literal["sgd"] = "sgd"

    @property
    def lazy(self) -> Literal["never", "scale", "replay"]:
        """See Optimizer."""
        return "scale" if self.weight_decay else "never"

    def state_widths(self, width: int) -> dict[str, int]:
        """No state."""
        return {}

    def settings(self) -> tuple[float, ...]:
        """Decay."""
        return (self.weight_decay,)


@dataclass(frozen=True, kw_only=True)
class Momentum(_Rated):
    """velocity = momentum * velocity + gradient; row -= learning_rate * velocity (``torch.optim.SGD(momentum=…)``)."""

    kind: Literal["momentum"] = "momentum"
    momentum: Beta = 0.9

    def state_widths(self, width: int) -> dict[str, int]:
        """One velocity per number."""
        return {"velocity": width}

    def settings(self) -> tuple[float, ...]:
        """Decay, momentum."""
        return self.weight_decay, self.momentum


@dataclass(frozen=True, kw_only=True)
class Adagrad(_Rated):
    """sum += gradient²; row -= learning_rate * gradient / (sqrt(sum) + eps) (Duchi et al. 2011)."""

    kind: Literal["adagrad"] = "adagrad"
    eps: Rate = 1e-10
    initial_accumulator: Decay = 0.0

    def state_widths(self, width: int) -> dict[str, int]:
        """One sum per number."""
        return {"sum": width}

    def initial_state(self, name: str) -> float:
        """``initial_accumulator``."""
        return self.initial_accumulator

    def settings(self) -> tuple[float, ...]:
        """Decay, eps."""
        return self.weight_decay, self.eps


@dataclass(frozen=True, kw_only=True)
class RowWiseAdagrad(_Rated):
    """Adagrad with one sum a row, of the mean squared gradient: W times less state."""

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    eps: Rate = 1e-8

    def state_widths(self, width: int) -> dict[str, int]:
        """One sum per row."""
        return {"sum": 1}

    def settings(self) -> tuple[float, ...]:
        """Decay, eps."""
        return self.weight_decay, self.eps


@dataclass(frozen=True, kw_only=True)
class Adam(_Rated):
    """Adam (Kingma and Ba 2015). With ``weight_decay`` it counts the group's steps, as a dense run does."""

    kind: Literal["adam"] = "adam"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: Rate = 1e-8

    decoupled: ClassVar[bool] = False

    def state_widths(self, width: int) -> dict[str, int]:
        """Two moments per number, and the row's own step count where it has one."""
        return {"mean": width, "variance": width, **({} if self.lazy == "replay" else {"step": 1})}

    def settings(self) -> tuple[float, ...]:
        """Decay, beta1, beta2, eps, whether decay is decoupled, whether the group's steps count."""
        return (
            self.weight_decay, self.beta1, self.beta2, self.eps, float(self.decoupled), float(self.lazy == "replay")
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay, row *= 1 - learning_rate * weight_decay (Loshchilov and Hutter 2019).

    Missed decay is a product, exact for any number of steps, while the moments of an untouched row stand still, as in
    ``torch.optim.SparseAdam``. With ``drift`` untouched rows also move on by their moments, as in a dense run of
    ``torch.optim.AdamW``, and missed steps are replayed.
    """

    kind: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: Decay = 0.01
    drift: bool = False

    decoupled: ClassVar[bool] = True

    @property
    def lazy(self) -> Literal["never", "scale", "replay"]:
        """See Optimizer."""
        if self.drift:
            return "replay"
        return "scale" if self.weight_decay else "never"


@dataclass(frozen=True, kw_only=True)
class FTRL:
    """FTRL-Proximal (McMahan et al. 2013, Algorithm 1, per coordinate); l1 and l2 are its own regularisation.

    ``learning_rate`` is α. A row's first value is its initial one; from its first gradient on it is what the algorithm
    makes of z and n. A row without a gradient does not move in a dense run either.
    """

    kind: Literal["ftrl"] = "ftrl"
    learning_rate: Rate
    beta: Decay = 1.0
    l1: Decay = 0.0
    l2: Decay = 0.0

    schedule: ClassVar[None] = None
    weight_decay: ClassVar[float] = 0.0
    replay_steps: ClassVar[int] = 1

    @property
    def lazy(self) -> Literal["never", "scale", "replay"]:
        """See Optimizer."""
        return "never"

    def state_widths(self, width: int) -> dict[str, int]:
        """z and n per number."""
        return {"z": width, "n": width}

    def initial_state(self, name: str) -> float:
        """Zero."""
        return 0.0

    def settings(self) -> tuple[float, ...]:
        """beta, l1, l2."""
        return self.beta, self.l1, self.l2


OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": Adam,
    "adamw": AdamW,
    "ftrl": FTRL,
}


def build_optimizer(fields: Mapping[str, object], where: str = "optimizer") -> Optimizer:
    """An optimizer from ``{"kind": ..., "learning_rate": ...}``; ConfigError, by the full key, for what can not be.

    >>> build_optimizer({"kind": "sgd", "learning_rate": 0.1}).settings()
    (0.0,)
    """
    kind = OPTIMIZERS[choose(where, fields, OPTIMIZERS)]
    schedule = fields.get("schedule")
    if isinstance(schedule, Mapping):
        fields = {**fields, "schedule": build_schedule(schedule, f"{where}.schedule")}
    optimizer: Optimizer = build(kind, fields, where)
    return optimizer
