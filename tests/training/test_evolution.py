"""Evolution: scores stay with their candidates, parents as they were, and a search goes on where it stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.tables.optembed import Evolution
from recsys.training.evolution import Candidate, Searched, Space, child, evolve, mutant

GOAL = (3, 7, 1, 8, 2)
HOW = Evolution(generations=25, mutations=6, crossovers=6, parents=5, mutation_probability=0.2)
SPACE = Space(num_genes=5, most=8)


def score(candidate: Candidate) -> float:
    return -float(sum((value - goal) ** 2 for value, goal in zip(candidate, GOAL, strict=True)))


def test_it_finds_what_is_best_and_its_history_never_falls() -> None:
    asked: list[Candidate] = []

    def counting(candidate: Candidate) -> float:
        asked.append(candidate)
        return score(candidate)

    found = evolve(HOW, SPACE, counting, seed=1)
    assert len(set(asked)) == len(asked) == len(found.scores)  # each once
    assert found.history == sorted(found.history) and len(found.history) == 25
    assert found.history[0] < found.history[-1] >= -2
    assert found.history[-1] == found.scores[found.best] == score(found.best) == max(map(score, asked))


def test_every_score_is_that_of_its_candidate() -> None:
    found = evolve(HOW, SPACE, score, seed=2)
    assert all(score(candidate) == value for candidate, value in found.scores.items())
    assert all(1 <= gene <= 8 for candidate in found.scores for gene in candidate)


def test_stopped_after_any_generation_it_ends_as_if_it_had_not() -> None:
    whole = evolve(HOW, SPACE, score, seed=3)
    for stopped_after in (1, 11, 24):
        part = evolve(replace(HOW, generations=stopped_after), SPACE, score, seed=3)
        saved = Searched.from_json(json.loads(json.dumps(part.to_json())))
        assert evolve(HOW, SPACE, score, seed=3, searched=saved) == whole
    assert evolve(HOW, SPACE, score, seed=4) != whole


def test_mutants_keep_what_is_not_drawn_anew_and_reach_every_width() -> None:
    random = np.random.default_rng(0)
    parent = (4,) * 5
    mutants = [mutant(parent, SPACE, 0.1, random) for _ in range(4000)]
    changed = np.mean([[gene != 4 for gene in made] for made in mutants])
    assert parent == (4, 4, 4, 4, 4)
    assert changed == pytest.approx(0.1 * 7 / 8, abs=0.008)
    assert {gene for made in mutants for gene in made} == set(range(1, 9))
    assert mutant(parent, SPACE, 0.0, random) == parent


def test_children_have_a_part_of_each_parent() -> None:
    random = np.random.default_rng(0)
    children = {child((1,) * 5, (2,) * 5, random) for _ in range(200)}
    assert children == {(1,) * cut + (2,) * (5 - cut) for cut in range(1, 5)}  # no clones, whatever the widths
    assert child((3,), (4,), random) == (3,)


def test_only_what_is_allowed_is_scored() -> None:
    space = Space(num_genes=5, most=8, allows=lambda candidate: sum(candidate) <= 9)
    found = evolve(HOW, space, score, seed=5)
    assert all(sum(candidate) <= 9 for candidate in found.scores) and len(found.scores) > 20
    with pytest.raises(ConfigError, match="not even that of ones"):
        evolve(HOW, Space(num_genes=5, most=8, allows=lambda candidate: False), score, seed=5)


def test_one_table_is_searched_by_mutants() -> None:
    found = evolve(HOW, Space(num_genes=1, most=8), lambda candidate: -abs(candidate[0] - 6), seed=1)
    assert found.best == (6,)
