"""Who looks up all the time while things break, and remembers what was read."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import DataError, ServiceError
from recsys.serving import Lookup
from recsys.serving.published import NotPublished

if TYPE_CHECKING:
    from chaos_serving import Chaos

MODEL = "chaos"
ITEMS = list(range(20))


class Reader(threading.Thread):
    """Looks up all items, over and over."""

    def __init__(self, chaos: "Chaos") -> None:
        super().__init__()
        self._chaos, self._ending = chaos, threading.Event()
        self._found: list[Any] = []
        self._wrong: list[str] = []
        self._seen = (0, 0)
        self.num_answers = self.num_errors = 0

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        lookup = Lookup.connect(f"{self._chaos.server.url}?socket_timeout=0.2", MODEL)
        while not self._ending.wait(0.002):
            losses = self._chaos.losses
            try:
                found = lookup.embed("item", ITEMS)
            except (ServiceError, NotPublished, DataError):
                self.num_errors += 1
                continue
            except BaseException as error:
                self._wrong.append(f"{type(error).__name__}: {error}")
                continue
            self.num_answers += 1
            self._found.append(found.vectors_ND)
            last_losses, last_version = self._seen
            if losses == last_losses == self._chaos.losses and found.versions.version < last_version:
                self._wrong.append(f"version {found.versions.version} after {last_version}")
            self._seen = (losses, found.versions.version)

    def check(self) -> None:
        """Every row that was read once was one."""
        known = [{rows[at].tobytes() for rows in self._chaos.once} for at in range(len(ITEMS))]
        absent = self._chaos.trained.trainer.store.groups["item"].absent_rows(np.array(ITEMS))
        for rows in self._found:
            for at, row in enumerate(rows):
                assert row.tobytes() in known[at] or np.array_equal(row, absent[at]), f"item {at}: {row}"
        assert not self._wrong, self._wrong[:3]
