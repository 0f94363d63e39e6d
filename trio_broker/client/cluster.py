"""The cluster as a client sees it: connections to its brokers, and metadata that is kept fresh.

There is one connection for each broker and purpose, since a broker answers the requests of a
connection one after another: a long poll must not hold up an admin call. Requests go out in the
newest version that both sides know. One task, `keep_fresh`, asks for metadata when somebody has
seen that it is out of date and before it is too old; everything else happens in the caller's task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_broker.client.connection import Connection, Connector, connect
from trio_broker.client.errors import (
    ClientClosed,
    RequestTimedOut,
    Unreachable,
    request_error,
)
from trio_broker.client.link import Link
from trio_broker.client.metadata import ClusterView, TopicView, updated
from trio_broker.client.remedies import CONNECTION_FAILURES, Remedy, remedy_for
from trio_broker.errors import ErrorCode, ProtocolError, RequestError, TrioBrokerError
from trio_broker.wire.message import Request, Response
from trio_broker.wire.messages.find_coordinator import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Sequence

    from trio_broker.client.options import ClientOptions
    from trio_broker.host.interface import Host

logger = logging.getLogger("trio_broker.client")

R = TypeVar("R", bound=Response)
T = TypeVar("T")

#: Purposes of connections that belong to nobody in particular.
METADATA = "metadata"
ADMIN = "admin"
COORDINATOR = "coordinator"
#: A topic that nobody has used for so many times the age of metadata is not asked for any more.
_TOPIC_FORGOTTEN_AGES = 2
_GROUP_KEY_TYPE = 0


class Cluster:
    """Brokers, connections, metadata.

    Attributes:
        host: gives time and randomness.
        options: of the client.
        view: the newest metadata.
        is_closed: `close` was called.
    """

    def __init__(
        self,
        connector: Connector,
        bootstrap: Sequence[tuple[str, int]],
        host: Host,
        options: ClientOptions,
    ) -> None:
        self.host = host
        self.options = options
        self.view = ClusterView()
        self._connector = connector
        self._bootstrap = tuple(bootstrap)
        self._links: dict[tuple[int, str], Link] = {}
        self._coordinators: dict[str, int] = {}
        self._topics_used: dict[str, float] = {}
        self._refreshes = 0
        self._refreshed_at = -float("inf")
        self._refresh_lock = trio.Lock()
        self._is_refresh_wanted = False
        self._refresh_requested = trio.lowlevel.ParkingLot()
        self._watchers: dict[Callable[[], None], None] = {}
        self.is_closed = False
        self._random = host.entropy.random("client")

    def __repr__(self) -> str:
        addresses = ",".join(f"{host}:{port}" for host, port in self._bootstrap)
        return f"<Cluster {self.view.cluster_id} of {addresses or 'an embedded broker'}>"

    # ------------------------------------------------------------------------------------ requests

    async def call(
        self,
        node_id: int,
        purpose: str,
        body: Request,
        response_type: type[R],
        *,
        timeout_seconds: float | None = None,
        version_max: int | None = None,
    ) -> R:
        """Send a request to a broker and wait for the answer.

        Args:
            node_id: of the broker.
            purpose: requests of one purpose wait for each other, others do not.
            body: the request.
            response_type: class of the answer.
            timeout_seconds: None: the client's request timeout.
            version_max: newest version wanted; None: any.

        Raises:
            ConnectionLost, Unreachable, RequestTimedOut, OSError: no answer (CONNECTION_FAILURES).
            ProtocolError, VersionMismatch: it is no broker we can talk to.

        Cancellation: unknown whether the broker acted; the connection is replaced.
        """
        address = self._address(node_id)
        link = self._links.get((node_id, purpose))
        if link is None:
            link = self._links[node_id, purpose] = Link(self._connect)
        return await link.request(
            address,
            body,
            response_type,
            timeout_seconds=timeout_seconds or self.options.request_timeout_seconds,
            idle_seconds=self.options.connection_idle_seconds,
            version_max=version_max,
        )

    async def call_any(self, purpose: str, body: Request, response_type: type[R]) -> R:
        """Send a request to any broker, to the next one if that one cannot be reached.

        Raises:
            Unreachable: nobody answers; `__cause__` is the last failure.
            ClientClosed: the client was closed.
            ProtocolError, VersionMismatch: what answers is no broker we can talk to.

        Cancellation: unknown whether a broker acted.
        """
        failure: Exception | None = None
        for node_id in self._shuffled(self.view.nodes):
            try:
                return await self.call(node_id, purpose, body, response_type)
            except CONNECTION_FAILURES as error:
                failure = error
        self.request_refresh()
        raise self._nobody_answers(failure) from failure

    def _nobody_answers(self, failure: Exception | None) -> TrioBrokerError:
        if self.is_closed:
            return ClientClosed("the client is closed")
        return Unreachable(f"no broker answers: {_reason(failure)}")

    async def connect(self, node_id: int) -> Connection:
        """Open a connection to a broker that belongs to the caller, who closes it.

        Raises:
            Unreachable, ConnectionLost, OSError: it cannot be reached in time.
            ProtocolError, VersionMismatch: it is no broker we can talk to.
        """
        return await self._connect(self._address(node_id))

    def close_purpose(self, purpose: str) -> None:
        """Close the connections of a purpose that nobody will use again."""
        for key in [key for key in self._links if key[1] == purpose]:
            self._links.pop(key).close()

    def close(self) -> None:
        """Close every connection; waiting calls fail."""
        self.is_closed = True
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _address(self, node_id: int) -> tuple[str, int]:
        node = self.view.nodes.get(node_id)
        if node is None:
            self.request_refresh()
            raise Unreachable(f"broker {node_id} is not part of the cluster at the moment")
        return node.host, node.port

    async def _connect(self, address: tuple[str, int]) -> Connection:
        if self.is_closed:
            raise Unreachable("the client is closed")
        host, port = address
        with trio.move_on_after(self.options.connect_timeout_seconds):
            return await connect(self._connector, host, port, client_id=self.options.client_id)
        raise Unreachable(f"{host}:{port} does not let us connect")

    def _shuffled(self, items: Iterable[int]) -> list[int]:
        shuffled = list(items)
        self._random.shuffle(shuffled)
        return shuffled

    # ------------------------------------------------------------------------------------ metadata

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call a function after each change of `view`; it must not block or raise."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """End what `watch` began."""
        self._watchers.pop(watcher, None)

    def request_refresh(self) -> None:
        """Let the metadata be asked for soon, because something shows that it is out of date."""
        self._is_refresh_wanted = True
        self._refresh_requested.unpark_all()

    def use_topic(self, name: str) -> None:
        """Keep metadata of a topic, from the next refresh on."""
        self._topics_used[name] = trio.current_time()

    async def keep_fresh(self) -> None:
        """Ask for metadata when it is wanted or becomes old; a task, ends when cancelled."""
        pause = self.retries(float("inf"))
        while True:
            with trio.move_on_at(self._refreshed_at + self.options.metadata_max_age_seconds):
                while not self._is_refresh_wanted:
                    await self._refresh_requested.park()
            try:
                await self.refresh()
            except (*CONNECTION_FAILURES, ProtocolError) as error:
                logger.warning("cannot refresh the metadata: %s", error)
                await pause.sleep()
            else:
                pause = self.retries(float("inf"))
                # Partitions without a leader ask again at once, and it takes them some time.
                await trio.sleep(self.options.retry_backoff_seconds)

    async def refresh(self) -> None:
        """Ask for the metadata of all topics in use; calls at the same time share one request.

        Raises:
            Unreachable: no broker answers.
            ProtocolError: what answers is no broker.
        """
        seen = self._refreshes
        async with self._refresh_lock:
            if self._refreshes != seen:
                return
            forgotten_seconds = _TOPIC_FORGOTTEN_AGES * self.options.metadata_max_age_seconds
            used_since = trio.current_time() - forgotten_seconds
            self._topics_used = {
                name: used for name, used in self._topics_used.items() if used > used_since
            }
            asked = list(self._topics_used)
            self._is_refresh_wanted = False
            try:
                answer = await self.ask_metadata(asked)
            except BaseException:
                self.request_refresh()
                raise
            self.view = updated(self.view, answer, self._topics_used.keys() - set(asked))
            self._refreshes += 1
            self._refreshed_at = trio.current_time()
        for watcher in list(self._watchers):
            watcher()

    async def ask_metadata(self, topics: Sequence[str] | None) -> MetadataResponse:
        """Ask any broker, also those that the client was started with.

        Args:
            topics: names; None: all there are.

        Raises:
            Unreachable: no broker answers.
            ProtocolError: what answers is no broker.
        """
        wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        body = MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
        failure: Exception | None = None
        for node_id in self._shuffled(self.view.nodes):
            try:
                return _checked(await self.call(node_id, METADATA, body, MetadataResponse))
            except (*CONNECTION_FAILURES, RequestError) as error:
                failure = error
        for address in self._bootstrap or [("", 0)]:
            link = Link(self._connect)
            try:
                answer = await link.request(
                    address,
                    body,
                    MetadataResponse,
                    timeout_seconds=self.options.request_timeout_seconds,
                    idle_seconds=self.options.connection_idle_seconds,
                )
                return _checked(answer)
            except (*CONNECTION_FAILURES, RequestError) as error:
                failure = error
            finally:
                link.close()  # from here on the cluster's own addresses are used
        raise self._nobody_answers(failure) from failure

    async def topic(self, name: str, *, timeout_seconds: float | None = None) -> TopicView:
        """Return what is known of a topic; ask if nothing is.

        A topic that does not exist is asked for until the time is up, since a broker may not yet
        have heard of one that was just created.

        Args:
            name: of the topic.
            timeout_seconds: None: the client's `topic_timeout_seconds`.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC_EXCEPTION and others.
            Unreachable: no broker answers.
        """
        self.use_topic(name)
        found = self.view.topics.get(name)
        if found is not None:
            return found
        if timeout_seconds is None:
            timeout_seconds = self.options.topic_timeout_seconds
        retries = self.retries(timeout_seconds)
        while True:
            try:
                await self.refresh()
            except CONNECTION_FAILURES as error:
                await retries.again(error)
                continue
            found = self.view.topics.get(name)
            if found is not None:
                return found
            self.use_topic(name)
            code = self.view.failures.get(name)
            if code is None:
                continue  # the refresh had begun before we came
            failure = request_error(code, f"topic {name!r}")
            if Remedy.RETRY not in remedy_for(code) or retries.is_over:
                raise failure
            await retries.again(failure)

    # --------------------------------------------------------------------------------- coordinators

    async def coordinator(self, group: str) -> int:
        """Return the id of the broker that coordinates a group.

        Raises:
            RequestError: with the code that the broker answers, COORDINATOR_NOT_AVAILABLE for
                example.
            Unreachable, ProtocolError, VersionMismatch: as `call_any`.
        """
        known = self._coordinators.get(group)
        if known is not None and known in self.view.nodes:
            return known
        body = FindCoordinatorRequest(key=group, key_type=_GROUP_KEY_TYPE, coordinator_keys=[group])
        answer = await self.call_any(COORDINATOR, body, FindCoordinatorResponse)
        code, message, node_id = answer.error_code, answer.error_message, answer.node_id
        for coordinator in answer.coordinators:
            code, message = coordinator.error_code, coordinator.error_message
            node_id = coordinator.node_id
        if code:
            raise request_error(code, message)
        if node_id not in self.view.nodes:
            await self.refresh()
        self._coordinators[group] = node_id
        return node_id

    def forget_coordinator(self, group: str) -> None:
        """Look for the coordinator of a group again, when it is next needed."""
        self._coordinators.pop(group, None)

    # -------------------------------------------------------------------------------------- retries

    def pause_seconds(self, failures: int) -> float:
        """Return how long to wait after so many failures before this one, in a row.

        Exponential, with up to a fifth more or less (KIP-580).
        """
        options = self.options
        pause = options.retry_backoff_seconds * 2.0 ** min(failures, 16)
        return min(pause, options.retry_backoff_max_seconds) * self._random.uniform(0.8, 1.2)

    def retries(self, timeout_seconds: float) -> Retries:
        """Return the pauses of something that is tried for so long."""
        return Retries(self, timeout_seconds)

    async def retrying(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        timeout_seconds: float | None = None,
        final: Container[ErrorCode] = (),
    ) -> T:
        """Try something until it works, fails for good, or the time is up.

        Args:
            attempt: raises RequestError for what a broker has answered.
            timeout_seconds: None: the client's `call_timeout_seconds`.
            final: codes that are answers here, though they are worth a retry elsewhere.

        Raises:
            RequestError: with a final code.
            Unreachable, RequestTimedOut: the time is up.
            ProtocolError, VersionMismatch: it is no broker we can talk to.
        """
        if timeout_seconds is None:
            timeout_seconds = self.options.call_timeout_seconds
        retries = self.retries(timeout_seconds)
        while True:
            try:
                return await attempt()
            except RequestError as error:
                if error.code in final:
                    raise
                await retries.again(error)
            except CONNECTION_FAILURES as error:
                await retries.again(error)


class Retries:
    """Pauses between attempts, and their end.

    Attributes:
        deadline: Trio time after which no further attempt begins.
    """

    def __init__(self, cluster: Cluster, timeout_seconds: float) -> None:
        self.deadline = trio.current_time() + timeout_seconds
        self._cluster = cluster
        self._attempts = 0

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return trio.current_time() >= self.deadline

    def pause_seconds(self) -> float:
        """Return the next pause."""
        self._attempts += 1
        return self._cluster.pause_seconds(self._attempts - 1)

    async def sleep(self) -> None:
        """Pause, at most until the deadline."""
        await trio.sleep_until(min(self.deadline, trio.current_time() + self.pause_seconds()))

    async def again(self, failure: Exception) -> None:
        """Pause and return, if another attempt makes sense.

        Args:
            failure: how the attempt ended; one with an error code decides by itself.

        Raises:
            ClientClosed: there is nobody to make another attempt.
            RequestError: `failure`, if its code is final.
            Unreachable: `failure`, if the time is up.
            RequestTimedOut: the time is up after another failure, which is its cause.
        """
        if self._cluster.is_closed:
            raise ClientClosed("the client is closed")
        if isinstance(failure, RequestError):
            remedy = remedy_for(failure.code)
            if Remedy.RETRY not in remedy:
                raise failure
            if Remedy.REFRESH in remedy:
                self._cluster.request_refresh()
        else:
            self._cluster.request_refresh()
        if self.is_over:
            if isinstance(failure, Unreachable):
                raise failure
            raise RequestTimedOut(f"given up: {failure}") from failure
        await self.sleep()


def _checked(answer: MetadataResponse) -> MetadataResponse:
    if answer.error_code != ErrorCode.NONE:
        raise request_error(answer.error_code, "Metadata")
    return answer


def _reason(failure: Exception | None) -> str:
    """Return what has failed, without the number that the system has for it."""
    return (isinstance(failure, OSError) and failure.strerror) or str(failure)
