"""A client: `open_client`, and what it yields.

    async with open_client("localhost:9092") as client:
        await client.admin.create_topic("orders", partitions=3)

Everything that runs belongs to the block: when it is left, tasks have ended and connections are
closed.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Protocol

import trio

from trio_broker.client.admin import Admin
from trio_broker.client.cluster import Cluster
from trio_broker.client.consumer import Consumer
from trio_broker.client.group_consumer import GroupConsumer
from trio_broker.client.options import (
    ClientOptions,
    ConsumerOptions,
    GroupOptions,
    ProducerOptions,
)
from trio_broker.client.producer import Producer
from trio_broker.client.scope import END_SECONDS_MAX, TaskScope, open_scope
from trio_broker.config_checks import split_address
from trio_broker.host.clock import require_trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from trio_broker.client.connection import Connector
    from trio_broker.client.group_consumer import Callback
    from trio_broker.client.metadata import ClusterView
    from trio_broker.host.interface import Host, Stream


class InProcessBroker(Protocol):
    """A broker in the same program, `trio_broker.Broker` for example."""

    @property
    def host(self) -> Host:
        """The machine that both run on."""

    async def connect(self) -> Stream:
        """Open a connection. Raises OSError."""


class _InProcess:
    """Connects to a broker in the same program, whatever the address."""

    def __init__(self, broker: InProcessBroker) -> None:
        self._broker = broker

    async def connect(self, _host: str, _port: int) -> Stream:
        return await self._broker.connect()


class Client:
    """A client of one cluster; `open_client` makes it.

    Attributes:
        admin: calls about topics, configs, groups and brokers.
    """

    def __init__(self, cluster: Cluster, scope: TaskScope) -> None:
        self.admin = Admin(cluster)
        self._cluster = cluster
        self._scope = scope
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<Client of {self._cluster!r}>"

    @asynccontextmanager
    async def open_producer(
        self, options: ProducerOptions | None = None
    ) -> AsyncIterator[Producer]:
        """Be a producer for the length of a block.

        Leaving the block without an error waits until every record is acknowledged (`flush`).
        Leaving it with one, or cancelled, gives up at once: records whose outcome is not known may
        or may not be stored.

        Args:
            options: None: defaults.

        Raises:
            CodecUnavailable: the compression needs a library that is not installed.
            RequestError, DeliveryTimedOut: see `Producer.flush`.
        """
        purpose = f"producer {next(self._numbers)}"
        producer = Producer(self._cluster, options or ProducerOptions(), self._scope, purpose)
        producer.start()
        try:
            yield producer
            await producer.flush()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + END_SECONDS_MAX, shield=True):
                await producer.close()

    @asynccontextmanager
    async def open_consumer(
        self, options: ConsumerOptions | None = None, *, group: str | None = None
    ) -> AsyncIterator[Consumer]:
        """Be a consumer of chosen partitions for the length of a block.

        Args:
            options: None: defaults.
            group: for committed offsets, without being a member; None: none.
        """
        purpose = f"consumer {next(self._numbers)}"
        consumer = Consumer(
            self._cluster, options or ConsumerOptions(), self._scope, purpose, group
        )
        consumer.start()
        try:
            yield consumer
        finally:
            with trio.CancelScope(deadline=trio.current_time() + END_SECONDS_MAX, shield=True):
                await consumer.close()

    @asynccontextmanager
    async def open_group_consumer(
        self,
        group: str,
        topics: Sequence[str],
        options: ConsumerOptions | None = None,
        *,
        group_options: GroupOptions | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> AsyncIterator[GroupConsumer]:
        """Be a member of a group of consumers for the length of a block.

        Leaving the block without an error counts the last batch as processed, leaving it with one
        (or cancelled) does not. Either way what was processed is committed, unless
        `auto_commit_seconds` is None, and the group is left, within a few seconds.

        The callbacks get the partitions concerned. They run while nothing is handed out, in a task
        of the client: they must not read from the consumer, and what they raise ends the client.

        Args:
            group: its id.
            topics: names of topics to share with the other members; they need not exist yet.
            options: of reading; None: defaults.
            group_options: of the membership; None: defaults.
            on_assigned: before anything is read of new partitions; may `seek`.
            on_revoked: before partitions go to others; may `commit`.
            on_lost: after partitions have gone to others, because this member was silent or slow.

        Raises:
            ValueError: there is no topic, or an assignor is not known.
        """
        consumer = GroupConsumer(
            self._cluster,
            group,
            topics,
            options or ConsumerOptions(),
            group_options or GroupOptions(),
            self._scope,
            f"consumer {next(self._numbers)}",
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
        )
        consumer.start()
        try:
            yield consumer
            await consumer.finish()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + END_SECONDS_MAX, shield=True):
                await consumer.close()

    @property
    def metadata(self) -> ClusterView:
        """What is known of the cluster at this moment: brokers, and the topics in use."""
        return self._cluster.view


@asynccontextmanager
async def open_client(
    bootstrap: str | Iterable[str] | None = None,
    *,
    broker: InProcessBroker | None = None,
    options: ClientOptions | None = None,
    nursery: trio.Nursery | None = None,
    host: Host | None = None,
) -> AsyncIterator[Client]:
    """Be a client of a Kafka cluster for the length of a block.

    Args:
        bootstrap: addresses of some brokers, ``host:port``, in a list or separated by commas.
        broker: instead of that, a broker in the same program; no socket is used.
        options: None: defaults.
        nursery: where the client's tasks run; None: in one of the block's own. With the caller's
            nursery a fault in one of them ends that nursery, else it ends the block.
        host: the machine to run on; None: that of `broker`, or the real one.

    Raises:
        ValueError: neither `bootstrap` nor `broker`, or both, or an address is none.
        RuntimeError: outside of Trio.
        Unreachable: no broker could be reached within `start_timeout_seconds`.
        BaseException: whatever the block raises, as it is.

    Cancellation: leaving the block ends everything at once; see `Producer` and `GroupConsumer` for
        what they do first when they are left without an error.
    """
    require_trio("open_client()")
    if (bootstrap is None) == (broker is None):
        raise ValueError("a client needs either the addresses of brokers or a broker")
    if host is None and broker is not None:
        host = broker.host
    elif host is None:
        from trio_broker.host.real import real_host

        host = real_host()
    if options is None:
        options = ClientOptions()
    connector: Connector = host.network if broker is None else _InProcess(broker)
    cluster = Cluster(connector, _addresses(bootstrap), host, options)
    async with open_scope(nursery) as scope:
        try:
            await cluster.retrying(cluster.refresh, timeout_seconds=options.start_timeout_seconds)
            scope.start("metadata", cluster.keep_fresh)
            yield Client(cluster, scope)
        finally:
            cluster.close()


def _addresses(bootstrap: str | Iterable[str] | None) -> list[tuple[str, int]]:
    if bootstrap is None:
        return []
    texts = bootstrap.split(",") if isinstance(bootstrap, str) else list(bootstrap)
    addresses = [split_address(text.strip()) for text in texts if text.strip()]
    if not addresses:
        raise ValueError("there is no address in bootstrap")
    return addresses
