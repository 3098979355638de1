"""Evolutionary search over tuples of whole numbers (OptEmbed, after single-path one-shot search).

A candidate is a tuple: nothing that is made of a parent can change it. Scores are kept by candidate, each is found
once, and the best of all that were ever scored is what is returned, so that scoring it again gives its score. What a
generation draws follows from (seed, its number): a search that goes on ends as if it had never stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import ConfigError
from recsys.tables.optembed import Evolution

Candidate = tuple[int, ...]
_TRIES = 100  # at a candidate that is allowed


@dataclass(kw_only=True)
class Searched:
    """Where a search stands: JSON, after each generation. ``history`` is the best score up to each."""

    generation: int = 0
    population: list[Candidate] = field(default_factory=list)
    scores: dict[Candidate, float] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

    @property
    def best(self) -> Candidate:
        """The candidate of the highest score; of equal ones that of the smallest sum."""
        return max(self.scores, key=lambda candidate: (self.scores[candidate], -sum(candidate)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "generation": self.generation,
            "population": [list(candidate) for candidate in self.population],
            "scores": [[list(candidate), score] for candidate, score in self.scores.items()],
            "history": self.history,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Searched":
        """What ``to_json`` described."""
        return cls(
            generation=saved["generation"],
            population=[tuple(candidate) for candidate in saved["population"]],
            scores={tuple(candidate): score for candidate, score in saved["scores"]},
            history=list(saved["history"]),
        )


@dataclass(frozen=True, kw_only=True)
class Space:
    """Candidates of ``num_genes`` numbers in 1 … ``most``, of which those that ``allows`` are searched.

    (1, 1, …) must be one. ``weights`` (most,) say how likely a number is drawn; all alike where it is None.
    """

    num_genes: int
    most: int
    allows: Callable[[Candidate], bool] = lambda candidate: True
    weights: Any = None

    def draw(self, random: np.random.Generator, num: int) -> Candidate:
        """``num`` numbers."""
        drawn: list[int] = (1 + random.choice(self.most, num, p=self.weights)).tolist()
        return tuple(drawn)

    def allowed(self, make: Callable[[], Candidate]) -> Candidate:
        """What ``make`` makes, when it makes something that is allowed; the smallest candidate where it does not."""
        for _ in range(_TRIES):
            if self.allows(made := make()):
                return made
        return (1,) * self.num_genes


def evolve(
    how: Evolution,
    space: Space,
    score: Callable[[Candidate], float],
    *,
    seed: int,
    searched: Searched | None = None,
    on_generation: Callable[[Searched], None] = lambda searched: None,
) -> Searched:
    """Search, from where ``searched`` stands if it is given; ``on_generation`` is told after each.

    ConfigError where not even the smallest candidate is allowed.
    """
    if not space.allows((1,) * space.num_genes):
        raise ConfigError("no candidate is allowed, not even that of ones; allow more")
    searched = searched or Searched(population=_first(how, space, np.random.default_rng([seed, 0])))
    while searched.generation < how.generations:
        for candidate in searched.population:
            if candidate not in searched.scores:
                searched.scores[candidate] = score(candidate)
        searched.history.append(searched.scores[searched.best])
        searched.generation += 1
        searched.population = _next(how, space, searched, np.random.default_rng([seed, searched.generation]))
        on_generation(searched)
    return searched


def _first(how: Evolution, space: Space, random: np.random.Generator) -> list[Candidate]:
    num = how.mutations + how.crossovers
    return [space.allowed(lambda: space.draw(random, space.num_genes)) for _ in range(num)]


def _next(how: Evolution, space: Space, searched: Searched, random: np.random.Generator) -> list[Candidate]:
    """Mutants and children of the best of a generation, which has been scored."""
    ranked = sorted(dict.fromkeys(searched.population), key=lambda candidate: -searched.scores[candidate])
    parents = ranked[: how.parents]

    def a_mutant() -> Candidate:
        return mutant(parents[random.integers(len(parents))], space, how.mutation_probability, random)

    def a_child() -> Candidate:
        one, other = random.choice(len(parents), 2, replace=len(parents) < 2)
        return child(parents[one], parents[other], random)

    return [
        *(space.allowed(a_mutant) for _ in range(how.mutations)),
        *(space.allowed(a_child) for _ in range(how.crossovers)),
    ]


def mutant(parent: Candidate, space: Space, probability: float, random: np.random.Generator) -> Candidate:
    """The parent with each number drawn anew by a probability."""
    is_new = random.random(len(parent)) < probability
    drawn = space.draw(random, len(parent))
    return tuple(new if chosen else old for old, new, chosen in zip(parent, drawn, is_new, strict=True))


def child(one: Candidate, other: Candidate, random: np.random.Generator) -> Candidate:
    """The beginning of one parent and the end of the other, each of one number at least where there are two.

    >>> child((1, 1, 1), (2, 2, 2), np.random.default_rng(0))
    (1, 1, 2)
    """
    if len(one) < 2:
        return one
    cut = int(random.integers(1, len(one)))
    return one[:cut] + other[cut:]
