"""The broker inside a Trio program: `open_broker`, `serve`, and the `Broker` they yield.

Calls go through the same handlers and the same write queues as requests from the network, without
sockets and without encoding. Errors follow one rule: the caller's own exception leaves
`open_broker` as it was raised, a failure of the broker leaves as one `BrokerCrashed`, and nobody
meets a group for a single error.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.append_slot import AwaitedAppend
from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.handlers.produce import check_batch
from trio_broker.broker.listeners import serve_stream
from trio_broker.broker.partition_reader import PartitionReader
from trio_broker.broker.session import Session
from trio_broker.broker.statistics import snapshot, snapshot_in_turns
from trio_broker.broker.supervise import first_cause
from trio_broker.client.partitioner import choose_partition
from trio_broker.config import BrokerConfig
from trio_broker.errors import BrokerClosed, BrokerCrashed, ErrorCode, RequestError
from trio_broker.host.clock import has_real_time, require_trio
from trio_broker.host.memory_stream import memory_stream_pair
from trio_broker.names import TopicName
from trio_broker.records.batch import BatchHeader
from trio_broker.records.build import Record, build_batch, check_content

if TYPE_CHECKING:
    from trio_broker.admin.statistics import BrokerStatistics
    from trio_broker.broker.interception import Interceptor
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.shutdown import ShutdownReport
    from trio_broker.host.interface import Host, Stream
    from trio_broker.names import TopicId

#: Newest version of the APIs that the embedded calls go through.
_EMBEDDED = Session(peer="embedded")


class Broker:
    """A running broker, as the program that embeds it sees it.

    Every method raises `BrokerClosed` once the broker has begun to stop.
    """

    def __init__(self, tree: BrokerTree) -> None:
        self._tree = tree
        self._state = tree.state

    def __repr__(self) -> str:
        return f"<Broker {self.bootstrap or 'without listeners'}>"

    @property
    def host(self) -> Host:
        """The machine it runs on."""
        return self._state.host

    @property
    def listeners(self) -> list[tuple[str, int]]:
        """Addresses listened on, (host, port), with the real ports."""
        return list(self._state.bound)

    @property
    def bootstrap(self) -> str:
        """What to give Kafka clients as bootstrap.servers; empty without listeners."""
        return ",".join(f"{host}:{port}" for host, port in self._state.bound)

    @property
    def http_listeners(self) -> list[tuple[str, int]]:
        """Addresses of health and metrics, (host, port), with the real ports."""
        return list(self._state.http_bound)

    def statistics(self) -> BrokerStatistics:
        """Return what the broker does at this moment, as plain values.

        Reads memory only; about 5 microseconds for each partition and committed offset, and all
        that time nothing else runs on the event loop. With thousands of them `collect_statistics`
        is kinder to others.
        """
        return snapshot(self._state)

    async def collect_statistics(self) -> BrokerStatistics:
        """Return what the broker does, as `statistics` does, and let other tasks run in between.

        So what is told of different topics, and of different groups, is a few milliseconds apart.

        Cancellation: nothing was changed.
        """
        return await snapshot_in_turns(self._state)

    @property
    def cluster_id(self) -> str:
        """Id of the cluster, made at the first start."""
        return self._state.controller.image.cluster_id

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        configs: Mapping[str, str] | None = None,
    ) -> TopicId:
        """Create a topic; when this returns, every partition of it can be written and read.

        Args:
            name: 1 to 249 of ``[a-zA-Z0-9._-]``.
            partitions: how many; None: the broker's `num_partitions`.
            configs: Kafka's topic configs, such as ``{"retention.ms": "3600000"}``.

        Raises:
            RequestError: with Kafka's code, TOPIC_ALREADY_EXISTS for example.
            BrokerClosed: the broker is stopping.

        Cancellation: unknown; the topic may or may not exist.
        """
        self._check_open()
        result = await self._state.controller.create_topic(name, partitions, dict(configs or {}))
        if result.code:
            raise RequestError(result.code, result.message or "")
        return result.topic_id

    async def delete_topic(self, name: str) -> None:
        """Delete a topic; when this returns, its tasks have ended and its files are closed.

        And a restart will not bring it back.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION if there is none; KAFKA_STORAGE_ERROR if it
                could not be deleted, or is deleted but leaves files that are removed later.
            BrokerClosed: the broker is stopping.

        Cancellation: unknown; a deletion that has begun goes on, at the latest at the next start.
        """
        self._check_open()
        controller = self._state.controller
        is_known = name in controller.image.topics_by_name
        result = await controller.delete_topic(name)
        if is_known and result.is_gone(controller.image):
            await self._state.coordinator.forget_topics([TopicName(name)])
        if result.code:
            raise RequestError(result.code, result.message or "")

    async def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> tuple[int, int]:
        """Append one record; return (partition, offset) once it is as durable as its topic says.

        Records of one key go to one partition, the same that Kafka's own clients choose; records
        without a key go to the partitions in turn.

        Raises:
            RequestError: with the code that a Kafka producer would have received.
            BrokerClosed: the broker is stopping.
            TypeError: the record has something else than bytes in it.

        Cancellation: unknown; the record may or may not be stored.
        """
        if timestamp_ms is None:
            timestamp_ms = self._state.host.wall.now_ms()
        pairs = check_content(key, value, headers)
        record = Record(key=key, value=value, headers=pairs, timestamp_ms=timestamp_ms)
        return await self.produce_batch(topic, [record], partition=partition)

    async def produce_batch(
        self, topic: str, records: Sequence[Record], *, partition: int | None = None
    ) -> tuple[int, int]:
        """Append records as one batch, all or none; return (partition, offset of the first).

        Without `partition`, the first record's key chooses it.

        Raises:
            RequestError: with the code that a Kafka producer would have received.
            BrokerClosed: the broker is stopping.

        Cancellation: unknown; the batch may or may not be stored.
        """
        self._check_open()
        if not records:
            raise RequestError(ErrorCode.INVALID_RECORD, "a batch needs at least one record")
        routed = self._state.router.by_name.get(topic)
        if routed is None:
            raise RequestError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic!r}")
        if routed.is_internal:
            raise RequestError(
                ErrorCode.INVALID_TOPIC_EXCEPTION, "only the broker writes to this topic"
            )
        if partition is None:
            key = records[0].key
            partition = choose_partition(key, len(routed.replicas), routed.turn)
            if key is None:
                routed.turn += 1
        replica = routed.replica(partition)
        if replica is None:
            raise RequestError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{topic!r} has no partition {partition}"
            )
        batch = build_batch(records)
        return partition, await self._append(replica, batch)

    async def _append(self, replica: Replica, batch: bytes) -> int:
        verdict = check_batch(self._state, replica.topic, memoryview(batch))
        if not isinstance(verdict, BatchHeader):
            raise RequestError(verdict.code, verdict.message)
        refusal = replica.shard.log_dir.refusal
        if refusal is not None:
            raise RequestError(*refusal)
        await replica.shard.wait_for_room()
        append = AwaitedAppend()
        slot = append.submit(replica, batch, verdict)
        await append.wait()
        if slot.code:
            raise RequestError(slot.code, slot.message or "")
        return slot.base_offset

    @asynccontextmanager
    async def read(
        self, topic: str, partition: int = 0, *, offset: int = 0
    ) -> AsyncIterator[PartitionReader]:
        """Open a reader of one partition, from an offset on::

            async with broker.read("orders", offset=0) as reader:
                async for record in reader:
                    ...

        At the end of the partition the iteration waits for more.

        Args:
            topic: name of the topic.
            partition: its index.
            offset: first offset wanted; -1: the end, -2: the oldest there is.

        Raises:
            RequestError: there is no such topic or partition. An offset out of range is told by
                the first `receive`.
            BrokerClosed: the broker is stopping.
        """
        self._check_open()
        reader = PartitionReader(self._state, topic, partition, offset)
        try:
            yield reader
        finally:
            await reader.aclose()

    async def connect(self) -> Stream:
        """Open a connection in memory, for a Kafka client in the same program::

            async with open_client(broker=broker) as client:
                ...

        Whatever a socket would carry goes over the stream, and the broker serves it like one. It
        does not count as one of the connections that `network` limits.

        Raises:
            ConnectionRefusedError: the broker is stopping, as a socket would say it.
        """
        await trio.lowlevel.checkpoint()
        connections = self._state.connections
        if connections is None or self._state.draining or self._tree.ended.is_set():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the broker is stopping")
        near, far = memory_stream_pair(_EMBEDDED.peer, repr(self))
        connections.start_soon(serve_stream, self._state, far, Session(peer=_EMBEDDED.peer))
        return near

    def request_stop(self) -> None:
        """Begin an orderly stop; leaving `open_broker` does the same."""
        self._tree.request_stop("request_stop was called")

    @property
    def shutdown_report(self) -> ShutdownReport | None:
        """How the stop went: phases, laggards, failures; None until the broker has stopped."""
        return self._tree.report

    async def wait_stopped(self) -> None:
        """Wait until the broker has stopped, for whatever reason."""
        await self._tree.ended.wait()

    def _check_open(self) -> None:
        if self._state.draining or self._tree.ended.is_set():
            raise BrokerClosed("the broker is stopping")


@asynccontextmanager
async def open_broker(
    config: BrokerConfig | None = None,
    *,
    host: Host | None = None,
    interceptor: Interceptor | None = None,
) -> AsyncIterator[Broker]:
    """Run a broker for the length of a block::

        async with open_broker(BrokerConfig(data_dir="data")) as broker:
            await broker.create_topic("orders")
            await broker.produce("orders", b"1")

    The object exists once recovery is done and every listener is bound. Leaving the block stops
    the broker in order, under `shutdown.deadline_seconds`; so does cancelling it, under a shorter
    deadline. No signal handler, no logging configuration, no global state.

    Args:
        config: None: defaults.
        host: the machine to run on; None: the real one.
        interceptor: stands between connections and handlers, in tests; None: nobody does.

    Raises:
        ConfigError: from building the configuration.
        StorageError, OSError: the broker could not start.
        BrokerCrashed: the broker failed while it ran; the block has been cancelled.
        RuntimeError: outside of Trio, or under a clock that does not wait for disks.
        BaseException: whatever the block raises, as it is.
    """
    require_trio("open_broker()")
    if host is None:
        from trio_broker.host.real import real_host

        host = real_host()
    _check_clock(host)
    tree = BrokerTree(config or BrokerConfig(), host, interceptor=interceptor)
    outcome: BaseException | None = None
    crash: BaseException | None = None
    started = False

    async def run_tree(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal crash
        try:
            await tree.run(task_status=task_status)
        except BaseException as error:  # noqa: ASYNC103 - becomes the cause of BrokerCrashed
            if not started:
                raise
            crash = error
            body_scope.cancel()
            if isinstance(error, trio.Cancelled):
                raise

    body_scope = trio.CancelScope()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_tree)
            started = True
            try:
                with body_scope:
                    yield Broker(tree)
            except BaseException as error:  # noqa: BLE001, ASYNC103 - raised again below
                outcome = error
            # Not asked of `outcome`: a nursery in the block may have made a group of it.
            if trio.current_effective_deadline() == -math.inf:
                tree.hurry("the program was cancelled")
            else:
                tree.request_stop("the program left the broker's block")
                try:
                    await tree.ended.wait()
                except trio.Cancelled as cancelled:  # noqa: ASYNC103 - raised below
                    tree.hurry("the program was cancelled")
                    outcome = cancelled if outcome is None else outcome
    except BaseExceptionGroup as group:
        if started:
            raise
        raise first_cause(group) from None
    if crash is not None:
        raise BrokerCrashed("the broker failed") from first_cause(crash)
    if outcome is not None:
        raise outcome


async def serve(
    config: BrokerConfig | None = None,
    *,
    host: Host | None = None,
    task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker as a task: ``broker = await nursery.start(serve, config)``.

    Ends after `Broker.request_stop`, or when cancelled; raises as `open_broker` does.
    """
    async with open_broker(config, host=host) as broker:
        task_status.started(broker)
        await broker.wait_stopped()


def _check_clock(host: Host) -> None:
    """Refuse a real disk under a virtual clock, where deadlines pass while a thread still works."""
    if not host.simulated and not has_real_time():
        raise RuntimeError(
            "a broker on a real disk cannot run under a virtual clock, since virtual time does "
            "not wait for its threads: use trio_broker.testing.memory_broker instead"
        )
