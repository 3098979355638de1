"""The item vectors of what is served: made by who asks, or kept ready by a thread beside."""

import logging
import threading
import time
from dataclasses import dataclass

from recsys.errors import RecsysError
from recsys.models.recommender import Recommender
from recsys.serving.published import Id, NotPublished, NotReady, Versions
from recsys.serving.served import Served, ServedRun
from recsys.serving.vectors import ItemVectors, item_vectors

_LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """The item vectors of one version, made at a time of the clock, with the run and the recommender that made them."""

    run: ServedRun
    versions: Versions
    recommender: Recommender
    items: ItemVectors
    made_at: float


class ItemIndex:
    """Vectors of one version after the other; a new one is made beside the last and takes its place whole.

    They are due anew for another run, and for another version where they are older than ``max_age_seconds``.
    """

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._making = threading.Lock()
        self.latest: Index | None = None
        self.num_made = 0

    def fresh(self, run: ServedRun, versions: Versions) -> Index:
        """The vectors; while one thread makes them anew, others go on with those that there are of the same run."""
        index = self.latest
        usable = index is not None and index.versions.run == versions.run
        if index is not None and usable and not self.is_due(versions):
            return index
        if not self._making.acquire(blocking=not usable):
            assert index is not None
            return index
        try:
            if self.is_due(versions):
                self.latest = _made(run, versions)
                self.num_made += 1
            assert self.latest is not None
            return self.latest
        finally:
            self._making.release()

    def is_due(self, versions: Versions) -> bool:
        """Whether they are to be made anew."""
        index = self.latest
        if index is None or index.versions.run != versions.run:
            return True
        age_seconds = time.monotonic() - index.made_at
        return index.versions.version != versions.version and age_seconds >= self._max_age_seconds


class IndexKeeper:
    """A thread that has the vectors of what is served ready before anybody asks: ``start``, ``close``.

    After a switch it makes the next run's beside those there are. Those of a newer version of the same run are made
    where somebody has asked since: nothing is computed for nobody.
    """

    def __init__(self, served: Served, index: ItemIndex) -> None:
        self._served, self._index = served, index
        self._ending, self._asked = threading.Event(), threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="item vectors", daemon=True)

    def start(self) -> None:
        """Begin with what is served now."""
        self._thread.start()

    def close(self) -> None:
        """End it; what it makes just now is finished first, and nobody waits for that."""
        self._ending.set()
        self._asked.set()

    def ready(self, versions: Versions) -> Index:
        """What there is: of the run that is served, or of the one before while that one's are made; NotReady else."""
        if self._index.is_due(versions):
            self._asked.set()
        index = self._index.latest
        if index is None or not (index.versions.run == versions.run or index.run.is_there()):
            why = f" ({self._error})" if self._error else ""
            raise NotReady(f"the item vectors of run {versions.run!r} are being made{why}; try again in a few seconds")
        return index

    def _run(self) -> None:
        while not self._ending.is_set():
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                self._look(asked)
                self._error = ""
            except RecsysError as error:  # nothing is published yet, or Redis does not answer: it may come
                self._error = str(error)
            except Exception:
                self._error = "its log has more"
                _log.exception("item vectors could not be made")
            self._asked.wait(_LOOK_SECONDS)

    def _look(self, asked: bool) -> None:
        run, versions = self._served.current()
        index = self._index.latest
        is_of_run = index is not None and index.versions.run == versions.run
        if run.recommender.is_factorised and (asked or not is_of_run):
            self._index.fresh(run, versions)


def items_of(run: ServedRun, versions: Versions) -> tuple[Id, ...]:
    """All items of a run; NotPublished where there are none."""
    ids = run.item_ids()
    if not ids:
        raise NotPublished(
            f"run {versions.run!r} has published no items to choose from; publish facts of items, or rank candidates"
        )
    return ids


def _made(run: ServedRun, versions: Versions) -> Index:
    """The vectors of all items of a version."""
    made_at = time.monotonic()
    recommender, versions = run.at(versions)
    ids = items_of(run, versions)
    return Index(run, versions, recommender, item_vectors(recommender, run.rows, ids, run.items), made_at)
