"""The HTTP service in a thread, beside what else the process does."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

_PATIENCE_SECONDS = 5.0


@contextmanager
def hosted(app: FastAPI, listener: socket.socket) -> Iterator[None]:
    """Serve an application on a socket for the time of the block."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    patience = {"timeout_graceful_shutdown": int(_PATIENCE_SECONDS)}
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, **patience))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2 * _PATIENCE_SECONDS)
        listener.close()
