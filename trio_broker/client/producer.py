"""The producer: records in, their places in the log out.

    async with client.open_producer() as producer:
        placed = await producer.send("orders", b"1 pizza", key=b"table 4")

Records are collected into batches, one queue for each partition, and sent by one task per broker.
`producer_batch` says what is promised about order and duplicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.client.errors import ClientClosed, request_error
from trio_broker.client.metadata import NOBODY
from trio_broker.client.partitioner import StickyPartitioner, choose_partition
from trio_broker.client.producer_core import ProducerCore, record_size
from trio_broker.client.producer_sender import NodeSender
from trio_broker.errors import CodecUnavailable, ErrorCode
from trio_broker.records.build import Record, check_content
from trio_broker.records.compression import available

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.client.cluster import Cluster
    from trio_broker.client.metadata import TopicView
    from trio_broker.client.options import ProducerOptions
    from trio_broker.client.producer_batch import Delivery, RecordMetadata
    from trio_broker.client.scope import TaskScope

_TIMESTAMP_MS_MAX = 2**63 - 1


class Producer:
    """Sends records; `Client.open_producer` makes it.

    May be used by several tasks. Records that one task sends to a partition are stored in the
    order of the calls.
    """

    def __init__(
        self, cluster: Cluster, options: ProducerOptions, scope: TaskScope, purpose: str
    ) -> None:
        if not available(options.compression):
            name = options.compression.name.lower()
            raise CodecUnavailable(f"{name} needs pip install 'trio-broker[compression]'")
        self._cluster = cluster
        self._scope = scope.child()
        self._purpose = purpose
        self._core = ProducerCore(cluster, options, purpose)
        self._core.wake = self._wake
        self._wall = cluster.host.wall
        self._random = cluster.host.entropy.random("client/partitioner")
        self._sticky: dict[str, StickyPartitioner] = {}
        self._senders: dict[int, NodeSender] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Producer {self._core.buffered_bytes} bytes under way>"

    @property
    def buffered_bytes(self) -> int:
        """Memory of records whose outcome is not known, at most `buffer_bytes`."""
        return self._core.buffered_bytes

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is acknowledged.

        One task that sends so gets one record per round trip. Use several tasks, or `send_soon`.

        Args:
            topic: name of the topic.
            value: None is a tombstone in a compacted topic.
            key: records of one key go to one partition, the same that Kafka's clients choose.
            headers: names, which may repeat, with their values.
            timestamp_ms: milliseconds since 1970; None: now.
            partition: its index; None: by the key, or whichever is convenient.

        Raises:
            RequestError: the broker refuses the record, or there is no such topic or partition.
            DeliveryTimedOut: nobody has acknowledged it in time.
            ClientClosed: the producer is closed.
            ValueError, TypeError: no broker could store such a record.

        Cancellation: unknown; the record may or may not be stored.
        """
        delivery = await self.send_soon(
            topic,
            value,
            key=key,
            headers=headers,
            timestamp_ms=timestamp_ms,
            partition=partition,
        )
        return await delivery.wait()

    async def send_soon(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Delivery:
        """Put a record on its way; wait only if `buffer_bytes` are under way already.

        Args: see `send`.

        Returns:
            What tells the outcome. It may be dropped: then `flush` raises if the record fails.

        Raises:
            RequestError: there is no such topic or partition, or the record is too large.
            ClientClosed: the producer is closed.
            ValueError, TypeError: no broker could store such a record.

        Cancellation: the record was not sent.
        """
        await trio.lowlevel.checkpoint()
        self._core.check_open()
        record, size_bytes = self._record(key, value, headers, timestamp_ms)
        await self._core.wait_for_room(size_bytes)
        view = self._cluster.view.topics.get(topic)
        while view is None:
            await self._cluster.topic(topic)
            await self._core.wait_for_room(size_bytes)
            view = self._cluster.view.topics.get(topic)
        return self._add(view, record, size_bytes, partition)

    def send_nowait(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Delivery:
        """Put a record on its way if that needs no waiting, as `send_soon` else.

        Raises:
            trio.WouldBlock: `buffer_bytes` are under way, or the topic was not used yet.
        """
        self._core.check_open()
        view = self._cluster.view.topics.get(topic)
        if view is None:
            raise trio.WouldBlock
        record, size_bytes = self._record(key, value, headers, timestamp_ms)
        if not self._core.has_room(size_bytes):
            raise trio.WouldBlock
        return self._add(view, record, size_bytes, partition)

    async def flush(self) -> None:
        """Send everything that waits, and wait until all of it is acknowledged or has failed.

        Raises:
            RequestError, DeliveryTimedOut, ClientClosed: the first failure since the last flush
                that no `Delivery` has told of.

        Cancellation: records stay on their way.
        """
        await trio.lowlevel.checkpoint()
        await self._core.flush()

    def _record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp_ms: int | None,
    ) -> tuple[Record, int]:
        """Check what a caller gives: what cannot be encoded would stop a whole partition later."""
        pairs = check_content(key, value, headers)
        if timestamp_ms is None:
            timestamp_ms = self._wall.now_ms()
        elif not 0 <= timestamp_ms <= _TIMESTAMP_MS_MAX:
            raise ValueError(f"{timestamp_ms} is no timestamp")
        size_bytes = record_size(key, value, pairs)
        if size_bytes > self._core.options.request_bytes_max:
            raise request_error(
                ErrorCode.MESSAGE_TOO_LARGE,
                f"a record of {size_bytes} bytes; request_bytes_max is "
                f"{self._core.options.request_bytes_max}",
            )
        return Record(key, value, pairs, timestamp_ms), size_bytes

    def _add(
        self, view: TopicView, record: Record, size_bytes: int, partition: int | None
    ) -> Delivery:
        if partition is None:
            if record.key is not None:
                partition = choose_partition(record.key, len(view.partitions), 0)
            else:
                sticky = self._sticky.get(view.name)
                if sticky is None:
                    sticky = self._sticky[view.name] = StickyPartitioner(self._random)
                partition = sticky.choose(view, size_bytes, self._core.options.batch_bytes)
        elif partition not in view.partitions:
            raise request_error(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{view.name!r} has no partition {partition}"
            )
        return self._core.add(view.name, partition, record, size_bytes)

    # --------------------------------------------------------------------------------------- tasks

    def start(self) -> None:
        """Start the tasks; called by `Client.open_producer`."""
        self._cluster.watch(self._wake_all)
        self._scope.start("producer", self._supervise)

    async def close(self) -> None:
        """End the tasks and fail what has no outcome; called by `Client.open_producer`."""
        self._cluster.unwatch(self._wake_all)
        self._scope.cancel()
        self._core.close(ClientClosed("the producer was closed before the record's outcome"))
        self._cluster.close_purpose(self._purpose)
        await self._scope.end()

    def _wake(self, node_id: int) -> None:
        """Let whom it concerns look at the queues again."""
        sender = self._senders.get(node_id)
        if sender is not None:
            sender.wake()
        else:
            self._wake_all()

    def _wake_all(self) -> None:
        self._changed.unpark_all()
        for sender in self._senders.values():
            sender.wake()

    async def _supervise(self) -> None:
        """Fail what is late, find leaders, and start a sender for each; a task."""
        core = self._core
        try:
            while True:
                now = trio.current_time()
                next_deadline = core.expire(now)
                for queue in core.pending:
                    leader = self._cluster.view.leader(queue.topic, queue.partition)
                    if leader == NOBODY:
                        if queue.last_failure is None:
                            queue.last_failure = request_error(
                                ErrorCode.LEADER_NOT_AVAILABLE, f"nobody leads {queue}"
                            )
                        self._cluster.use_topic(queue.topic)
                        self._cluster.request_refresh()
                    elif leader not in self._senders:
                        sender = self._senders[leader] = NodeSender(core, leader, self._scope)
                        self._scope.start(f"producer/broker {leader}", sender.run)
                # Records that come later have later deadlines.
                latest = now + core.options.delivery_timeout_seconds
                with trio.move_on_at(min(next_deadline, latest)):
                    await self._changed.park()
        finally:
            core.close(ClientClosed("the client was closed before the record's outcome"))
