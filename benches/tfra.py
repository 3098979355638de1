"""TFRA's cuckoo table as a contender: the other end of ``tfra_child``."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benches.draws import Batch
from recsys.errors import DependencyError
from recsys.hashing import Floats

CHILD = Path(__file__).with_name("tfra_child.py")


class Tfra:
    """A child process that takes the same keys; a context manager, so that it ends with the benchmark.

    Raises DependencyError where ``python`` can not run it; what the child said is in ``folder/tfra.log``.
    """

    name = "TFRA cuckoo"

    def __init__(self, python: Path, folder: Path, gradients_NW: Floats, threads: int) -> None:
        self._keys_file, gradients_file = folder / "tfra_keys.npy", folder / "tfra_gradients.npy"
        self._log = folder / "tfra.log"
        np.save(gradients_file, gradients_NW)
        arguments = [str(gradients_NW.shape[1]), str(threads), str(gradients_file)]
        with self._log.open("w") as log:
            try:
                self._child = subprocess.Popen(
                    [str(python), "-I", str(CHILD), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            except OSError as error:
                raise DependencyError(
                    f"--tfra {python} can not be run ({error}); give a Python that has TFRA"
                ) from error
        self.version = str(self._answer()["version"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._keys_file.unlink(missing_ok=True)

    def insert(self, batch: Batch) -> float:
        """Seconds to insert new ids."""
        return self._ask("insert", batch)

    def pull(self, batch: Batch) -> float:
        """Seconds to look up."""
        return self._ask("pull", batch)

    def step(self, batch: Batch) -> float:
        """Seconds of lookup, backward and Adagrad."""
        return self._ask("step", batch)

    def _ask(self, call: str, batch: Batch) -> float:
        np.save(self._keys_file, batch.keys_N)
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: there will be no answer
            self._child.stdin.write(json.dumps({"call": call, "keys": str(self._keys_file)}) + "\n")
            self._child.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise DependencyError(
                f"TFRA's process ended with status {self._end()} (see {self._log}); its environment needs "
                "tensorflow-recommenders-addons==0.8.1, tensorflow==2.16.2, tf-keras==2.16.0 and setuptools<81"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> int:
        """Close its input, at which it ends by itself; its exit status."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        return self._child.wait()
