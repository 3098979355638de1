"""Commands for many keys as arrays of bytes with one line a key, and connections to send them on.

redis-py builds a Python object a key on both ways, which takes several times what Redis takes. Connections, with their
login and TLS, are redis-py's.

Shape suffixes: N keys, L bytes a line.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

Bytes = npt.NDArray[np.uint8]
_END = b"\r\n"


@contextmanager
def connection_of(client: redis.Redis) -> Iterator[Any]:
    """A connection out of the pool; one that broke off in an answer is closed."""
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def head(num_arguments: int, *arguments: bytes) -> bytes:
    """How a command of so many arguments begins.

    >>> head(3, b"GET")
    b'*3\\r\\n$3\\r\\nGET\\r\\n'
    """
    return b"*%d\r\n" % num_arguments + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in arguments)


def bulk(lines_NL: Bytes) -> list[Bytes | bytes]:
    """Lines as arguments."""
    return [b"$%d\r\n" % lines_NL.shape[1], lines_NL, _END]


def packed(parts: Sequence[Bytes | bytes]) -> bytes:
    """Parts side by side, line after line; those that are plain bytes are the same in every line.

    >>> packed([b"<", np.frombuffer(b"abcd", np.uint8).reshape(2, 2), b">"])
    b'<ab><cd>'
    """
    num = next(len(part) for part in parts if not isinstance(part, bytes))
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (num, len(part))) if isinstance(part, bytes) else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1).tobytes()
