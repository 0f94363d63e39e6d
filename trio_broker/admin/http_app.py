"""The HTTP application: health and metrics, and who may see them. Served by `broker.http_server`.

Deny by default: only the paths below exist, only to be read, only for requests whose Host header
names this server. The last keeps web pages out, which can make a browser on the same machine ask a
loopback address by a name of their own (DNS rebinding); there are no CORS headers either. With a
token every path but the probes needs it, and without it the probes tell no more than yes or no.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import trio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from trio_broker.admin.health import PROBES, Answer, health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from trio_broker.admin.health import HealthFacts, Question

_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
#: Where the gate leaves in the scope whether the request carried the token, or needs none.
_TRUSTED: Final = "trio_broker.trusted"


class BrokerView(Protocol):
    """What the application needs to know of the broker."""

    def health(self) -> HealthFacts:
        """Return what health is judged by; cheap, never waits."""

    async def metrics_page(self, accept: str) -> tuple[bytes, str] | None:
        """Return a page and its content type, or None if there is nobody to make one now."""


def build_app(
    view: BrokerView, *, token: str | None, host_names: Collection[str], body_bytes_max: int
) -> ASGIApp:
    """Put the application together.

    Args:
        view: whom to ask.
        token: what the Authorization header must carry, as ``Bearer <token>``; None: nothing.
        host_names: names that the Host header may have, besides localhost and addresses.
        body_bytes_max: refuse requests that announce a larger body; no body is ever read.
    """
    app = Starlette(
        routes=[
            *(Route(path, _probe(view, question)) for path, question in PROBES.items()),
            Route("/health", _health(view)),
            Route("/metrics", _metrics(view)),
        ],
        exception_handlers={HTTPStatus.NOT_FOUND: _not_found},
    )
    app.router.redirect_slashes = False
    return Gate(app, token=token, host_names=host_names, body_bytes_max=body_bytes_max)


def _probe(view: BrokerView, question: Question) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        answer = question(view.health())
        return _as_json(answer if request.scope[_TRUSTED] else answer.without_details())

    return respond


def _health(view: BrokerView) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return _as_json(health(view.health()))

    return respond


def _metrics(view: BrokerView) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        page = await view.metrics_page(request.headers.get("accept", ""))
        if page is None:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "no metrics: the broker is stopping")
        return Response(page[0], headers=_HEADERS | {"content-type": page[1]})

    return respond


async def _not_found(_request: Request, _error: Exception) -> Response:
    await trio.lowlevel.checkpoint()
    paths = ", ".join(["/health", *PROBES])
    return _plain(HTTPStatus.NOT_FOUND, f"not found; here are {paths} and /metrics")


def _as_json(answer: Answer) -> Response:
    text = json.dumps(answer.body, indent=2) + "\n"
    return Response(text, answer.status, headers=_HEADERS | {"content-type": "application/json"})


def _plain(
    status: HTTPStatus, text: str, headers: dict[str, str] | None = None
) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, headers=_HEADERS | (headers or {}))


class Gate:
    """Lets through the requests that the application may see."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        host_names: Collection[str],
        body_bytes_max: int,
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._host_names = {"localhost", *(name.lower() for name in host_names)}
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it (ASGI)."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        headers = Headers(scope=scope)
        scope[_TRUSTED] = self._is_trusted(headers)
        refusal = self._refusal(headers, scope["path"], is_trusted=scope[_TRUSTED])
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, headers: Headers, path: str, *, is_trusted: bool) -> Response | None:
        if not self._names_us(headers.get("host", "")):
            return _plain(
                HTTPStatus.FORBIDDEN,
                "the Host header names another server; http.host_names lists further names",
            )
        if not is_trusted and path not in PROBES:
            return _plain(
                HTTPStatus.UNAUTHORIZED,
                "send 'Authorization: Bearer <http.token>'",
                {"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._body_bytes_max:
            return _plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        return None

    def _names_us(self, host: str) -> bool:
        """Tell whether a Host header is an address, or one of our names.

        An address is safe: no page of another server can have it as its name.
        """
        name = _without_port(host).lower()
        if name in self._host_names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_trusted(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        sent = headers.getlist("authorization")
        if len(sent) != 1:
            return False
        scheme, _, token = sent[0].partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self._token)
        return same and scheme.lower() == "bearer"


def _without_port(host: str) -> str:
    """Return the name of ``name``, ``name:port``, ``[v6]`` or ``[v6]:port``."""
    if host.endswith("]"):
        return host
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdecimal() else host
