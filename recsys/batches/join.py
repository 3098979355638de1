"""The online joiner of one partition: impressions meet their actions (Monolith, Liu et al. 2022, §3.2.1).

A pure function of (state, event): no clock, no Kafka, no Ray. Events come in event-time order (``merge``); what is
late is counted. An action kind declared ``final`` emits its example at once with label 1; otherwise an example waits
until its window has passed. An action may come before its impression. Every impression gives exactly one example.
The state itself is a ``JoinState``: in memory, or on disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any

import msgspec

from recsys.batches.examples import Example
from recsys.batches.join_state import Early, JoinState, Pending, Request
from recsys.batches.known_facts import KnownFacts
from recsys.batches.merge import FOREVER
from recsys.batches.recent import Lately
from recsys.events import Action, Event, Facts, Impression
from recsys.features.extract import Extractor
from recsys.features.packed import PackedFeatures
from recsys.features.packing import Packed, pack, unpack
from recsys.features.state import FeatureState, History
from recsys.fields import Above, AtLeast, Between, NotEmpty

_KEPT_BYTES = 2**24
_MAX_EARLY = 64  # actions of one request id that wait for its impression


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
    """Windows of the action kinds, how long ids are remembered after them, and what the state may take.

    ``remember_seconds`` after its window, an emitted or missing request id is forgotten: a duplicate or a late
    action up to then is recognised and counted. An event that comes more than ``allowed_lateness_seconds`` after a
    later one of its partition was joined is set aside (None: none is). With Kafka the state is on disk, and
    ``memory_mb`` is what of it a joiner keeps in memory; ``sync`` has each commit reach the disk before it counts,
    so that it outlives a power cut too, not the process alone.
    """

    actions: Annotated[Mapping[str, ActionKind], NotEmpty()]
    remember_seconds: Annotated[float, AtLeast(0)] = 3600.0
    keep_items: Annotated[int, AtLeast(0)] = 20  # the latest items shown and liked that a user's history holds
    allowed_lateness_seconds: Annotated[float, AtLeast(0)] | None = None
    memory_mb: Annotated[float, Above(0)] = 256.0
    sync: bool = False

    @cached_property
    def window_ms(self) -> int:
        """How long an example without a final action waits."""
        return max(kind.window_ms for kind in self.actions.values())

    @cached_property
    def remember_ms(self) -> int:
        """How long an id is remembered, from its last news on."""
        return self.window_ms + int(1000 * self.remember_seconds)

    @cached_property
    def allowed_lateness_ms(self) -> int:
        """How late an event may be."""
        return FOREVER if self.allowed_lateness_seconds is None else round(1000 * self.allowed_lateness_seconds)


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
    actions_too_early: int = 0  # beyond what waits of one request id for its impression
    events_too_late: int = 0  # set aside


@dataclass
class Joiner:
    """Joins one partition. ``process`` and ``advance`` return the examples that became final."""

    config: JoinConfig
    extractor: Extractor
    features: FeatureState
    kept: JoinState = field(default_factory=JoinState)
    counts: JoinCounts = field(default_factory=JoinCounts)
    waiting: int = 0  # impressions whose label is not final yet
    emitted_ms: int = -1  # emission times never go back
    lately: Lately = field(default_factory=lambda: Lately(_KEPT_BYTES))  # for what is made of facts

    def __post_init__(self) -> None:
        self._packed = PackedFeatures(self.extractor)
        self._profiles = KnownFacts(self.features.profiles, self._packed.of_profile, self.lately)
        self._items = KnownFacts(self.features.items, self._packed.of_item, self.lately)
        self._names = [feature.name for feature in self.extractor.features]
        self._are_numbers = [feature.kind == "number" for feature in self.extractor.features]

    def fetch(self, events: Sequence[Event]) -> None:
        """Have at hand what is known of all that some events are about."""
        shown = [event for event in events if isinstance(event, Impression)]
        done = [event for event in events if isinstance(event, Action)]
        users = dict.fromkeys([event.user_id for event in shown])
        self.kept.requests.fetch([*[event.request_id for event in shown], *[event.request_id for event in done]])
        self.features.fetch_histories([*users, *[event.user_id for event in done]])
        self._profiles.fetch(users)
        self._items.fetch({event.item_id for event in shown})

    def process(self, event: Event) -> list[Example]:
        """Take one event; examples whose window ended before it come first."""
        if isinstance(event, Facts):
            return self._take_facts(event)
        return self.advance(getattr(event, "time_ms", 0)) + self.take(event)

    def take(self, event: Event) -> list[Example]:
        """Take an impression or an action to whose time everything was advanced."""
        if isinstance(event, Impression):
            return self._take_impression(event)
        return self._take_action(event) if isinstance(event, Action) else []

    def advance(self, time_ms: int, limit: int = FOREVER) -> list[Example]:
        """Close the windows that ended before ``time_ms`` (FOREVER: all), and forget what is old.

        No more than ``limit`` of either: where ``is_behind`` then, call it again.
        """
        examples: list[Example] = []
        deadlines = self.kept.deadlines
        while deadlines.next_ms < time_ms:
            if len(examples) >= limit:
                return examples
            deadline, request_id = deadlines.pop()
            known = self.kept.requests.get(request_id)
            if type(known) is Pending and known.time_ms + self.config.window_ms == deadline:
                examples.append(self._emit(known, deadline))
        if time_ms > self.emitted_ms:  # a late event's example is not emitted in the past
            self.emitted_ms = time_ms
        if self.kept.forgets.next_ms < time_ms:
            self._forget(time_ms, limit)
        if self.kept.early_forgets.next_ms < time_ms:
            self._forget_early(time_ms, limit)
        return examples

    def is_behind(self, time_ms: int) -> bool:
        """Whether ``advance`` to a time has something left to do."""
        kept = self.kept
        return (
            kept.deadlines.next_ms < time_ms or kept.forgets.next_ms < time_ms or kept.early_forgets.next_ms < time_ms
        )

    def numbers(self) -> dict[str, Any]:
        """All that is to be known beside ``kept`` and the features."""
        return {"emitted_ms": self.emitted_ms, "waiting": self.waiting, "counts": asdict(self.counts)}

    def restore_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Go on from what ``numbers`` said."""
        self.emitted_ms, self.waiting = numbers["emitted_ms"], numbers["waiting"]
        self.counts = JoinCounts(**numbers["counts"])

    def state(self) -> dict[str, Any]:
        """Everything but the features, as plain values."""
        requests = list(self.kept.requests.items())
        return {
            "pending": [
                [self._shown(known), self._values(known), known.label, list(known.kinds)]
                for _, known in requests
                if isinstance(known, Pending)
            ],
            "early": [[id_, msgspec.to_builtins(known)] for id_, known in requests if isinstance(known, list)],
            "emitted": [[id_, known] for id_, known in requests if isinstance(known, int)],
            "memory": [*self.kept.forgets.items(), *self.kept.early_forgets.items()],
            **self.numbers(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` said."""
        for request_id, known in self._requests_of(state):
            self.kept.requests[request_id] = known
            if isinstance(known, Pending):
                self.kept.deadlines.add(known.time_ms + self.config.window_ms, request_id)
        for forget_ms, request_id in state["memory"]:
            was_emitted = self.kept.requests.get(request_id) == forget_ms
            (self.kept.forgets if was_emitted else self.kept.early_forgets).add(forget_ms, request_id)
        self.restore_numbers({"waiting": len(state["pending"]), **state})

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
        known = self.kept.requests.get(event.request_id)
        if known is not None and type(known) is not list:
            self.counts.duplicate_impressions += 1
            return []
        history = self.features.history(event.user_id)
        pending = Pending(
            event.request_id, event.user_id, event.item_id, event.time_ms, self._values_as_of(event, history)
        )
        self.counts.impressions += 1
        self.waiting += 1
        self.features.count_impression(event.user_id, event.item_id, event.time_ms, history)
        self.kept.requests[event.request_id] = pending
        self.kept.deadlines.add(event.time_ms + self.config.window_ms, event.request_id)
        examples = []
        for action in known or ():
            examples += self._join(action, self.kept.requests.get(event.request_id))
        return examples

    def _take_action(self, event: Action) -> list[Example]:
        self.counts.actions += 1
        if event.kind not in self.config.actions:
            self.counts.actions_of_unknown_kind += 1
            return []
        known = self.kept.requests.get(event.request_id)
        if known is not None and type(known) is not list:
            return self._join(event, known)
        early: Early = known or []
        if len(early) >= _MAX_EARLY:
            self.counts.actions_too_early += 1
            return []
        self.kept.requests[event.request_id] = [*early, event]
        self.kept.early_forgets.add(event.time_ms + self.config.remember_ms, event.request_id)
        return []

    def _join(self, action: Action, pending: Request | None) -> list[Example]:
        """An action meets its impression, which is pending unless its example was emitted."""
        if type(pending) is not Pending:
            self.counts.actions_after_emission += 1
            return []
        kind = self.config.actions[action.kind]
        if action.time_ms - pending.time_ms > kind.window_ms:
            self.counts.actions_outside_window += 1
            return []
        if action.kind in pending.kinds:
            self.counts.duplicate_actions += 1
            return []
        pending.kinds += (action.kind,)
        if kind.history:
            self.features.count_like(pending.user_id, pending.item_id, action.time_ms)
        pending.label = max(pending.label, kind.label)
        if not kind.final:
            self.kept.requests[action.request_id] = pending
            return []
        return [self._emit(pending, action.time_ms)]

    def _values_as_of(self, event: Impression, history: History) -> Packed:
        user_id, at = event.user_id, event.time_ms
        profile, item = self._profiles.as_of(user_id, at), self._items.as_of(event.item_id, at)
        return self._packed.as_of(at, user_id, history, profile, item)

    def _emit(self, pending: Pending, at_ms: int) -> Example:
        """The finished example; emission times of a partition never go back."""
        self.counts.examples += 1
        self.waiting -= 1
        self.emitted_ms = max(self.emitted_ms, at_ms)
        forget_ms = self.emitted_ms + self.config.remember_ms
        self.kept.requests[pending.request_id] = forget_ms
        self.kept.forgets.add(forget_ms, pending.request_id)
        return Example(
            request_id=pending.request_id,
            user_id=pending.user_id,
            item_id=pending.item_id,
            time_ms=pending.time_ms,
            emitted_ms=self.emitted_ms,
            label=pending.label,
            values=pending.values,
            kinds=pending.kinds,
        )

    def _forget(self, time_ms: int, limit: int) -> None:
        """Emitted ids: one that is known so is not known otherwise before it is forgotten."""
        requests, forgets = self.kept.requests, self.kept.forgets
        while forgets.next_ms < time_ms and limit > 0:
            del requests[forgets.pop()[1]]
            limit -= 1

    def _forget_early(self, time_ms: int, limit: int) -> None:
        """Actions whose impression has not come."""
        requests, forgets = self.kept.requests, self.kept.early_forgets
        while forgets.next_ms < time_ms and limit > 0:
            _, request_id = forgets.pop()
            known = requests.get(request_id)
            if type(known) is list:
                self.counts.actions_without_impression += len(known)
                del requests[request_id]
            limit -= 1

    def _shown(self, known: Pending) -> dict[str, Any]:
        return msgspec.to_builtins(Impression(known.request_id, known.user_id, known.item_id, known.time_ms))

    def _values(self, known: Pending) -> dict[str, Any]:
        return dict(zip(self._names, unpack(known.values, self._are_numbers), strict=True))

    def _requests_of(self, state: Mapping[str, Any]) -> Iterator[tuple[str, Request]]:
        """What a joiner's ``state`` says of each request id."""
        for shown, values, label, kinds in state["pending"]:
            packed = pack(values[name] for name in self._names)
            yield shown["request_id"], Pending(**shown, values=packed, label=label, kinds=tuple(kinds))
        for request_id, actions in state["early"]:
            yield request_id, msgspec.convert(actions, list[Action])
        for request_id, forget_ms in state["emitted"]:
            yield request_id, forget_ms
