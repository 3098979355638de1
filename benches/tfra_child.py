"""TensorFlow Recommenders Addons' cuckoo table, in a process of its own: it wants another numpy than we do.

Run with the Python of an environment that has tensorflow-recommenders-addons. Arguments: width, threads, the file of
the gradients (.npy). Then a line of JSON on standard input for each call, ``{"call": "insert" | "pull" | "step",
"keys": file}``, and for each one line on standard output, ``{"seconds": ...}``; before the first, ``{"version": ...}``.

Shape suffixes: N ids a call, U unique ids, W row width.
"""

import json
import os
import sys
import time
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_USE_LEGACY_KERAS": "1"}


class Cuckoo:
    """A CuckooHashTable variable with Adagrad, eager as TFRA's own examples for TensorFlow 2 are."""

    def __init__(self, width: int, threads: int, gradients_file: str) -> None:
        import numpy as np
        import tensorflow as tf
        from tensorflow_recommenders_addons import dynamic_embedding

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self._tf, self._np, self._dynamic, self._width = tf, np, dynamic_embedding, width
        self._gradients_NW = tf.constant(np.load(gradients_file))
        self._rows = dynamic_embedding.get_variable(
            "rows",
            dim=width,
            devices=["/CPU:0"],
            initializer=tf.keras.initializers.Zeros(),
            kv_creator=dynamic_embedding.CuckooHashTableCreator(),
        )
        adagrad = tf.keras.optimizers.legacy.Adagrad(learning_rate=0.05)
        self._optimizer = dynamic_embedding.DynamicEmbeddingOptimizer(adagrad)

    def keys(self, file: str) -> Any:
        """The keys of a file as a tensor."""
        return self._tf.constant(self._np.load(file))

    def insert(self, keys_N: Any) -> float:
        """Seconds to insert new ids; their Adagrad accumulators follow, untimed, as they are no part of the row."""
        rows_NW = self._tf.zeros((len(keys_N), self._width))
        start = time.perf_counter()
        self._rows.upsert(keys_N, rows_NW)
        seconds = time.perf_counter() - start
        self.step(keys_N)
        return seconds

    def pull(self, keys_N: Any) -> float:
        """Seconds to look up."""
        start = time.perf_counter()
        self._rows.lookup(keys_N)
        return time.perf_counter() - start

    def step(self, keys_N: Any) -> float:
        """Seconds of lookup, backward and Adagrad; by unique ids, for a repeated id would be updated only once."""
        gradients_NW = self._gradients_NW[: len(keys_N)]
        start = time.perf_counter()
        with self._tf.GradientTape() as tape:
            rows_NW, trained = self._dynamic.embedding_lookup_unique(
                self._rows, keys_N, return_trainable=True, name="lookup"
            )
            loss = self._tf.reduce_sum(rows_NW * gradients_NW)
        self._optimizer.apply_gradients([(tape.gradient(loss, trained), trained)])
        return time.perf_counter() - start


def main() -> None:
    """Answer calls until the input ends. What TensorFlow prints goes to standard error, not between the answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    width, threads, gradients_file = sys.argv[1:]
    cuckoo = Cuckoo(int(width), int(threads), gradients_file)
    from importlib.metadata import version

    answers.write(json.dumps({"version": version("tensorflow-recommenders-addons")}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        seconds = getattr(cuckoo, request["call"])(cuckoo.keys(request["keys"]))
        answers.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
