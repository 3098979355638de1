"""Negative sampling after the join, and the rates that correct for it (Monolith, Liu et al. 2022, §3.2.1).

An example with label y, kept with probability p, is learned as ``positives / p`` · y of a positive and
``negatives / p`` · (1 − y) of a negative. In expectation that makes, whatever the features, ``positives`` times the
whole stream's positives and ``negatives`` times its negatives: odds that are positives / negatives times the true
ones. So the logit that the loss sees is log(positives / negatives) above the model's, and the model's own is right.

With all positives kept, that is Monolith's ``logit − log(sample_rate)``, and every weight is 1.

Shape suffix: N examples.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt

from recsys.batches.examples import Example
from recsys.errors import unknown
from recsys.fields import Above, Between
from recsys.hashing import hash_string, mix64, seed_of

Rate = Annotated[float, Above(0), Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """``sampling``: which share of the joined examples is kept.

    ``negatives`` is for those without an action that counted, ``actions`` for those with one, by its kind, 1 where it
    is not named; an example of several kinds is kept with the largest of their rates.
    """

    negatives: Rate = 1.0
    actions: Mapping[str, Rate] = field(default_factory=dict)

    def check_kinds(self, declared: Collection[str]) -> None:
        """ConfigError for a rate of a kind that ``join.actions`` does not declare."""
        for kind in self.actions:
            if kind not in declared:
                raise unknown("field", f"sampling.actions.{kind}", declared)


class Sampler:
    """Keeps examples by their request ids and kinds alone: whoever joins a stream, however often, keeps the same ones.

    >>> sampler = Sampler(Sampling(negatives=0.25, actions={"click": 0.5}), kinds=["click", "buy"], seed=0)
    >>> sampler.rate_of([]), sampler.rate_of(["click"]), sampler.rate_of(["click", "buy"])
    (0.25, 0.5, 1.0)
    """

    def __init__(self, sampling: Sampling, kinds: Iterable[str], seed: int) -> None:
        self._actions = {kind: sampling.actions.get(kind, 1.0) for kind in kinds}
        self.negatives = sampling.negatives
        self.positives = max(self._actions.values(), default=1.0)
        self._keeps_all = min(self.negatives, *self._actions.values(), 1.0) == 1.0
        self._seed = seed

    def rate_of(self, kinds: Collection[str]) -> float:
        """The probability of keeping an example with actions of these kinds."""
        return max((self._actions[kind] for kind in kinds), default=self.negatives)

    def kept(self, examples: Sequence[Example]) -> list[Example]:
        """Those that are kept, in order, each with the rates that the loss and the metrics need."""
        if self._keeps_all or not examples:
            return list(examples)
        for example in examples:
            example.keep_rate = self.rate_of(example.kinds)
            example.positive_rate, example.negative_rate = self.positives, self.negatives
        draws_N = draws([example.request_id for example in examples], self._seed)
        return [example for example, draw in zip(examples, draws_N, strict=True) if draw < example.keep_rate]


def draws(request_ids: Iterable[str], seed: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) a request id: an example is kept where it is below its rate.

    One draw serves every rate, so what a lower rate keeps, a higher one keeps too.

    >>> draws(["r1", "r2"], seed=0).round(3).tolist()
    [0.467, 0.705]
    """
    hashes_N = np.fromiter(map(hash_string, request_ids), np.int64)
    mixed_N = mix64(hashes_N, seed_of(seed, "sampling"))
    return (mixed_N >> np.uint64(11)).astype(np.float64) * 2.0**-53
