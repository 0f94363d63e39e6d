"""Health and metrics over HTTP: the outermost part of the tree, started first and stopped last.

So a probe gets an answer while the broker recovers, and 503 instead of a refused connection while
it drains. Nothing of the broker waits for it: connections are few and bounded in time and memory,
a fault in here stays in here, and pages are made on a thread of their own, one at a time however
many ask.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.admin.families import ProcessUsage, Shown
from trio_broker.broker.listeners import PatientListener
from trio_broker.broker.statistics import health_facts, snapshot_in_turns
from trio_broker.config_checks import split_address
from trio_broker.errors import ConfigError, StuckIO

if TYPE_CHECKING:
    from trio_broker.admin.health import HealthFacts
    from trio_broker.broker.http_connection import HttpProtocol
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.facts import ProcessFacts
    from trio_broker.host.interface import Job, Lane, Listener, Stream

logger = logging.getLogger("trio_broker.http")

#: Modules that the `server` extra brings, by the names that pip knows.
_LIBRARIES = {
    "hypercorn": "hypercorn",
    "starlette": "starlette",
    "prometheus_client": "prometheus-client",
}
#: How long making a page may take before its lane counts as stuck.
_RENDER_SECONDS_MAX = 10.0
#: How long answers under way may take once the broker has stopped.
_FINISH_SECONDS = 0.5


def missing_libraries() -> list[str]:
    """Return what would have to be installed for serving HTTP."""
    return [name for module, name in _LIBRARIES.items() if importlib.util.find_spec(module) is None]


@asynccontextmanager
async def open_http_server(state: BrokerState) -> AsyncIterator[None]:
    """Serve health and metrics for the length of a block, if that is configured.

    Raises:
        ConfigError: the libraries are not installed.
        OSError: the address cannot be bound; it is named.
    """
    config = state.config.http
    if config.listen is None:
        yield
        return
    if missing := missing_libraries():
        raise ConfigError(
            [f"http.listen needs {', '.join(missing)}: pip install 'trio-broker[server]'"]
        )
    from trio_broker.broker.http_connection import HttpProtocol

    host, port = split_address(config.listen)
    lane = state.host.open_lane("http", _RENDER_SECONDS_MAX)
    view = BrokerPages(state, lane)
    names = [host]
    if (advertised := state.config.advertised) is not None:
        names.append(split_address(advertised)[0])
    protocol = HttpProtocol(view, config, state.supervisor, host_names=names)
    async with trio.open_nursery() as nursery:
        server = HttpServer(state, protocol, nursery)
        with ExitStack() as sockets:
            listeners = await _listen(state, host, port)
            for listener in listeners:
                sockets.callback(listener.close)
            state.http_bound = [(listener.host, listener.port) for listener in listeners]
            await nursery.start(lane.serve)
            for listener in listeners:
                nursery.start_soon(server.accept_forever, listener)
            yield
        await server.finish()
        nursery.cancel_scope.cancel()


async def _listen(state: BrokerState, host: str, port: int) -> Sequence[Listener]:
    try:
        return await state.host.network.listen(host, port)
    except OSError as error:
        hint = "http.listen, or --http of serve, sets another address for health and metrics"
        raise OSError(error.errno, f"{error.strerror}; {hint}") from error


class BrokerPages:
    """Makes what is served out of the broker's state; the `BrokerView` of the application."""

    def __init__(self, state: BrokerState, lane: Lane) -> None:
        self._state = state
        self._lane = lane
        self._rendering = trio.Lock()
        self._begun = 0
        self._newest: tuple[int, str, tuple[bytes, str]] | None = None

    def health(self) -> HealthFacts:
        """See `BrokerView.health`."""
        return health_facts(self._state)

    async def metrics_page(self, accept: str) -> tuple[bytes, str] | None:
        """Make a page, or share one that was begun after this was called.

        Cancellation: nothing was changed.
        """
        called_after = self._begun
        async with self._rendering:
            if self._newest is not None:
                begun, for_accept, page = self._newest
                if begun > called_after and for_accept == accept:
                    return page
            self._begun += 1
            begun = self._begun
            try:
                page = await self._render(accept)
            except StuckIO as error:
                logger.warning("no metrics: %s", error)
                return None
            self._newest = begun, accept, page
            return page

    async def _render(self, accept: str) -> tuple[bytes, str]:
        from trio_broker.admin.metrics import render

        statistics = await snapshot_in_turns(self._state)
        options = self._state.config.metrics
        host = self._state.host
        make_shown = partial(
            Shown,
            statistics,
            per_partition=options.per_partition,
            series_max=options.per_partition_max,
        )
        make_page = partial(render, accept=accept, compat=options.compat)
        return await self._lane.run(_page_job(make_shown, make_page, host.process_facts))


def _page_job(
    make_shown: Callable[[ProcessUsage | None], Shown],
    make_page: Callable[[Shown], tuple[bytes, str]],
    process_facts: Callable[[], ProcessFacts] | None,
) -> Job[tuple[bytes, str]]:
    """Ask the machine about the process, and turn everything into text."""
    usage = None
    if process_facts is not None:
        try:
            facts: ProcessFacts = yield process_facts, ()
        except OSError as error:  # it reads files, for which there may be no descriptor left
            logger.warning("no figures of the process: %s", error)
        else:
            usage = ProcessUsage(
                cpu_seconds=facts.cpu_seconds,
                resident_bytes=facts.resident_bytes,
                open_descriptors=facts.descriptors,
                descriptors_max=facts.descriptors_max,
                threads=facts.threads,
                started_at=facts.started_at,
            )
    shown: Shown = yield make_shown, (usage,)
    page: tuple[bytes, str] = yield make_page, (shown,)
    return page


class HttpServer:
    """Accepts HTTP clients, a bounded number of them."""

    def __init__(self, state: BrokerState, protocol: HttpProtocol, nursery: trio.Nursery) -> None:
        self._state = state
        self._protocol = protocol
        self._nursery = nursery
        self._open_count = 0
        self._left = trio.lowlevel.ParkingLot()

    async def accept_forever(self, listener: Listener) -> None:
        """Accept clients; after a fault, go on, ever more slowly. Ends with the listener."""
        accept = partial(self._accept, listener)
        await self._state.supervisor.keep_running("http server", accept)

    async def _accept(self, listener: Listener) -> None:
        patient = PatientListener(listener, self._state.accept_log)
        while (stream := await patient.accept()) is not None:
            if self._open_count >= self._state.config.http.connections_max:
                stream.close()
                continue
            self._open_count += 1
            self._nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._protocol.serve(stream)
        finally:
            stream.close()
            self._open_count -= 1
            self._left.unpark_all()

    async def finish(self) -> None:
        """Let answers under way leave, for a moment."""
        await self._protocol.finish()
        with trio.move_on_after(_FINISH_SECONDS):
            while self._open_count:
                await self._left.park()
