"""What stands before the HTTP service: the bearer token, limits of size, number and time, and the counting.

A plain ASGI application around another. A request is read whole before it goes in, and its answer comes out whole, so
that a limit reached on the way is still one JSON answer.
"""

import asyncio
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from recsys.errors import ConfigError
from recsys.serving.metrics import ServiceMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CODES = {
    400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large",
    422: "invalid_body", 500: "internal", 503: "unavailable", 504: "timeout",
}  # fmt: skip
_GUARDED = "/v1/"  # the rest tells nothing of what is published


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost. ``token`` None lets everybody in."""

    token: str | None = field(default=None, repr=False)
    max_body_bytes: int = 2**20
    max_in_flight: int = 256
    timeout_seconds: float = 5.0


def token_of(variable: str | None, env: Mapping[str, str] = os.environ) -> str | None:
    """The token in an environment variable; ConfigError where it is not set. None asks for none."""
    token = None if variable is None else env.get(variable, "")
    if token == "":
        raise ConfigError(f"limits.token_env={variable}: this environment variable is not set, or empty")
    return token


class Guard:
    """``app`` within limits."""

    def __init__(self, app: App, limits: Limits, metrics: ServiceMetrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        self._metrics.in_flight += 1
        try:
            answer = await self._answer(scope, receive)
        finally:
            self._metrics.in_flight -= 1
        for message in answer:
            await send(message)
        if answer:
            endpoint = scope["path"] if answer[0]["status"] not in (404, 405) else "other"
            self._metrics.count(endpoint, answer[0]["status"], time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of one whole answer; none where the client has gone."""
        if refused := self._refusal(scope):
            return refused
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                body = await self._body(receive)
                if body is None:
                    return []
                if len(body) > self._limits.max_body_bytes:
                    return self._too_large()
                return await self._answered(scope, body)
        except TimeoutError:
            return refusal(504, f"this took more than {self._limits.timeout_seconds:g} s; ask for less, or later")

    def _refusal(self, scope: Scope) -> list[Message]:
        """For what can be refused unread: nobody's requests, too many, or too large by their own word."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"].startswith(_GUARDED):
            if self._limits.token is not None and not _is_bearer(
                headers.get(b"authorization", b""), self._limits.token
            ):
                why = "give the header authorization: Bearer TOKEN, with this service's token"
                return refusal(401, why, {"www-authenticate": "Bearer"})
            if self._metrics.in_flight > self._limits.max_in_flight:
                why = f"{self._limits.max_in_flight} requests are being answered; try again shortly"
                return refusal(503, why, {"retry-after": "1"})
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self._limits.max_body_bytes else []

    def _too_large(self) -> list[Message]:
        return refusal(413, f"the body has more than {self._limits.max_body_bytes:,} bytes; ask in parts")

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it, or a little more than is allowed; None where the client has gone."""
        body, more = b"", True
        while more and len(body) <= self._limits.max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    async def _answered(self, scope: Scope, body: bytes) -> list[Message]:
        answer: list[Message] = []
        read = False

        async def receive() -> Message:
            nonlocal read
            if read:
                await asyncio.Event().wait()  # nothing more will come
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            answer.append(message)

        try:
            await self._app(scope, receive, send)
        except TimeoutError:
            raise
        except Exception:
            if not answer:
                raise
            # the application answered, with status 500, and raises for the server's log
        return answer


def refusal(status: int, why: str, headers: Mapping[str, str] | None = None) -> list[Message]:
    """One answer in the form of all errors."""
    body = json.dumps(error_body(status, why)).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return [
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        },
        {"type": "http.response.body", "body": body},
    ]


def error_body(status: int, why: str, code: str | None = None) -> dict[str, str]:
    """What every error says: a line for people, a code for programs."""
    return {"error": why, "code": code or CODES.get(status, "error")}


def _is_bearer(header: bytes, token: str) -> bool:
    scheme, _, given = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())
