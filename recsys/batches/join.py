"""The online joiner of one partition: impressions meet their actions (Monolith, Liu et al. 2022, §3.2.1).

A pure function of (state, event): no clock, no Kafka, no Ray. Events come in event-time order (``merge``); what is
late is counted. An action kind declared ``final`` emits its example at once with label 1; otherwise an example waits
until its window has passed. An action may come before its impression. Every impression gives exactly one example.
"""

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any

import msgspec

from recsys.batches.examples import Example
from recsys.events import Action, Event, Facts, Impression
from recsys.features.extract import Extractor, Values
from recsys.features.state import FeatureState, History
from recsys.fields import Above, AtLeast, Between, NotEmpty


@dataclass(frozen=True, kw_only=True)
class ActionKind:
    """How long after an impression an action of this kind counts, and what it means."""

    window_seconds: Annotated[float, Above(0)]
    final: bool = False  # the first one settles the label: emit at once
    label: Annotated[float, Between(0, 1)] = 1.0
    history: bool = True  # it becomes part of the user's likes

    @property
    def window_ms(self) -> int:
        """The window, to the millisecond."""
        return round(1000 * self.window_seconds)


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Windows of the action kinds, and how long ids are remembered after them.

    ``remember_seconds`` after its window, an emitted or missing request id is forgotten: a duplicate or a late
    action up to then is recognised and counted.
    """

    actions: Annotated[Mapping[str, ActionKind], NotEmpty()]
    remember_seconds: Annotated[float, AtLeast(0)] = 3600.0
    keep_items: Annotated[int, AtLeast(0)] = 20  # the latest items shown and liked that a user's history holds

    @cached_property
    def window_ms(self) -> int:
        """How long an example without a final action waits."""
        return max(kind.window_ms for kind in self.actions.values())


@dataclass
class JoinCounts:
    """What became of the events."""

    impressions: int = 0
    actions: int = 0
    facts: int = 0
    examples: int = 0  # joined: those that sampling leaves out too
    examples_sampled_out: int = 0
    duplicate_impressions: int = 0
    duplicate_actions: int = 0
    actions_after_emission: int = 0
    actions_outside_window: int = 0
    actions_of_unknown_kind: int = 0
    actions_without_impression: int = 0


@dataclass(slots=True)
class _Pending:
    impression: Impression
    values: Values
    label: float = 0.0
    kinds: tuple[str, ...] = ()  # of the actions that counted


@dataclass
class Joiner:
    """State of one partition. ``process`` and ``advance`` return the examples that became final."""

    config: JoinConfig
    extractor: Extractor
    features: FeatureState
    counts: JoinCounts = field(default_factory=JoinCounts)

    def __post_init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._deadlines: list[tuple[int, str]] = []
        self._early: dict[str, list[Action]] = {}
        self._emitted: dict[str, int] = {}  # request id -> forget at
        self._memory: deque[tuple[int, str]] = deque()  # (forget at, request id), by time
        self._emitted_ms = -1

    def process(self, event: Event) -> list[Example]:
        """Take one event; examples whose window ended before it come first."""
        if isinstance(event, Facts):
            return self._take_facts(event)
        examples = self.advance(getattr(event, "time_ms", 0))
        if isinstance(event, Impression):
            examples += self._take_impression(event)
        elif isinstance(event, Action):
            examples += self._take_action(event)
        return examples

    def advance(self, time_ms: int) -> list[Example]:
        """Close the windows that ended before ``time_ms`` (FOREVER: all), and forget what is old."""
        examples = []
        while self._deadlines and self._deadlines[0][0] < time_ms:
            deadline, request_id = heapq.heappop(self._deadlines)
            pending = self._pending.pop(request_id, None)
            if pending is not None:
                examples.append(self._emit(pending, deadline))
        self._emitted_ms = max(self._emitted_ms, time_ms)  # a late event's example is not emitted in the past
        self._forget(time_ms)
        return examples

    @property
    def waiting(self) -> int:
        """Impressions whose label is not final yet."""
        return len(self._pending)

    def state(self) -> dict[str, Any]:
        """Everything but the features, as plain values."""
        return {
            "pending": [
                [msgspec.to_builtins(waiting.impression), waiting.values, waiting.label, list(waiting.kinds)]
                for waiting in self._pending.values()
            ],
            "early": [[request_id, msgspec.to_builtins(actions)] for request_id, actions in self._early.items()],
            "emitted": list(self._emitted.items()),
            "memory": list(self._memory),
            "emitted_ms": self._emitted_ms,
            "counts": asdict(self.counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` said."""
        for impression, values, label, kinds in state["pending"]:
            shown = msgspec.convert(impression, Impression)
            self._pending[shown.request_id] = _Pending(shown, values, label, tuple(kinds))
            heapq.heappush(self._deadlines, (shown.time_ms + self.config.window_ms, shown.request_id))
        self._early = {request_id: msgspec.convert(actions, list[Action]) for request_id, actions in state["early"]}
        self._emitted = dict(map(tuple, state["emitted"]))
        self._memory = deque(map(tuple, state["memory"]))
        self._emitted_ms = state["emitted_ms"]
        self.counts = JoinCounts(**state["counts"])

    def _take_facts(self, event: Facts) -> list[Example]:
        self._check_facts(event)
        self.features.put_facts(event.of, event.id, event.time_ms, event.facts)
        self.counts.facts += 1
        return []

    def _check_facts(self, event: Facts) -> None:
        """Facts that no feature can be made of are refused once, here, not at each impression."""
        if event.of == "item":
            self.extractor.of_item(event.id, event.facts)
        else:
            self.extractor.of_user(event.id, History(), event.facts, event.time_ms)

    def _take_impression(self, event: Impression) -> list[Example]:
        if event.request_id in self._pending or event.request_id in self._emitted:
            self.counts.duplicate_impressions += 1
            return []
        pending = _Pending(event, self._values_as_of(event))
        self.counts.impressions += 1
        self.features.count_impression(event.user_id, event.item_id, event.time_ms)
        deadline = event.time_ms + self.config.window_ms
        self._pending[event.request_id] = pending
        heapq.heappush(self._deadlines, (deadline, event.request_id))
        examples = []
        for action in self._early.pop(event.request_id, ()):
            examples += self._join(action)
        return examples

    def _take_action(self, event: Action) -> list[Example]:
        self.counts.actions += 1
        if event.kind not in self.config.actions:
            self.counts.actions_of_unknown_kind += 1
            return []
        if event.request_id in self._pending:
            return self._join(event)
        if event.request_id in self._emitted:
            self.counts.actions_after_emission += 1
            return []
        self._early.setdefault(event.request_id, []).append(event)
        self._remember(event.request_id, event.time_ms)
        return []

    def _join(self, action: Action) -> list[Example]:
        """An action meets its pending impression."""
        pending = self._pending.get(action.request_id)
        if pending is None:
            self.counts.actions_after_emission += 1
            return []
        kind = self.config.actions[action.kind]
        if action.time_ms - pending.impression.time_ms > kind.window_ms:
            self.counts.actions_outside_window += 1
            return []
        if action.kind in pending.kinds:
            self.counts.duplicate_actions += 1
            return []
        pending.kinds += (action.kind,)
        if kind.history:
            self.features.count_like(pending.impression.user_id, pending.impression.item_id, action.time_ms)
        pending.label = max(pending.label, kind.label)
        if not kind.final:
            return []
        del self._pending[action.request_id]
        return [self._emit(pending, action.time_ms)]

    def _values_as_of(self, event: Impression) -> Values:
        features, at = self.features, event.time_ms
        values = self.extractor.of_user(
            event.user_id, features.history(event.user_id), features.profiles.as_of(event.user_id, at), at
        )
        values.update(self.extractor.of_item(event.item_id, features.items.as_of(event.item_id, at)))
        values.update(self.extractor.of_time(at))
        return values

    def _emit(self, pending: _Pending, at_ms: int) -> Example:
        """The finished example; emission times of a partition never go back."""
        self.counts.examples += 1
        self._emitted_ms = max(self._emitted_ms, at_ms)
        impression = pending.impression
        self._emitted[impression.request_id] = self._remember(impression.request_id, self._emitted_ms)
        return Example(
            request_id=impression.request_id,
            user_id=impression.user_id,
            item_id=impression.item_id,
            time_ms=impression.time_ms,
            emitted_ms=self._emitted_ms,
            label=pending.label,
            values=pending.values,
            kinds=pending.kinds,
        )

    def _remember(self, request_id: str, at_ms: int) -> int:
        """Note an id; returns the time at which it is forgotten."""
        forget_ms = at_ms + self.config.window_ms + int(1000 * self.config.remember_seconds)
        self._memory.append((forget_ms, request_id))
        return forget_ms

    def _forget(self, time_ms: int) -> None:
        while self._memory and self._memory[0][0] < time_ms:
            forget_ms, request_id = self._memory.popleft()
            if self._emitted.get(request_id) == forget_ms:  # not when an early action was noted before it
                del self._emitted[request_id]
            orphans = self._early.pop(request_id, ())
            self.counts.actions_without_impression += len(orphans)
