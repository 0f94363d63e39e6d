"""Produce (key 0), versions 3 to 13: append record batches.

ApiVersions advertises version 0 as the minimum, because librdkafka before 2.11 otherwise does not
compress (KAFKA-18659); versions 0 to 2 are not answered. One v2 batch per partition, as Kafka
requires; batches are checked by their headers and stored as sent, never decompressed. Transactional
batches are refused until transactions exist.

Nothing here awaits between parsing and queueing, so one connection's batches enter each partition
in the order they were sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.append_slot import AppendSlot
from trio_broker.errors import ErrorCode
from trio_broker.records.batch import BatchHeader
from trio_broker.records.validation import BatchFault, validate_produced
from trio_broker.wire.produce import (
    PartitionProduceResult,
    encode_produce_response,
    parse_produce,
)

if TYPE_CHECKING:
    from trio_broker.broker.connection import Connection
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.names import TopicId
    from trio_broker.wire.headers import RequestHeader
    from trio_broker.wire.produce import ProduceRequest, ProduceTopic

#: From this version on topics are named by id (KIP-516).
TOPIC_ID_VERSION = 13
ALL_REPLICAS = -1
#: A client that asks for no timeout still gets an answer.
TIMEOUT_MS_MAX = 10 * 60 * 1000


class ProduceInFlight:
    """A Produce request whose batches are on their way; owner of their slots.

    Attributes:
        began: Trio time at which all of it was there.
        close_reason: if not empty, its reply is never sent: the connection closes instead.
        size_bytes: of its frame, which counts against the connection and the memory pool.
        is_complete: every slot has its outcome.
        failed: some slot was refused.
        deadline: Trio time at which the client gives up waiting.
    """

    __slots__ = (
        "_open_slots",
        "_topics",
        "acks",
        "began",
        "close_reason",
        "connection",
        "correlation_id",
        "deadline",
        "is_complete",
        "size_bytes",
        "version",
    )

    def __init__(self, connection: Connection | None, header: RequestHeader, size: int) -> None:
        self.connection = connection
        self.correlation_id = header.correlation_id
        self.version = header.api_version
        self.size_bytes = size
        self.acks = 1
        self.began = trio.current_time()
        self.close_reason = ""
        self.deadline = float("inf")
        self.is_complete = False
        self._open_slots = 1  # held by `start_produce` until all slots are queued
        self._topics: list[tuple[str | None, TopicId | None, list[tuple[int, AppendSlot]]]] = []

    @property
    def failed(self) -> bool:
        """Whether some batch was not stored."""
        return any(slot.code for _, _, slots in self._topics for _, slot in slots)

    def begin_topic(self, topic: ProduceTopic) -> list[tuple[int, AppendSlot]]:
        """Add a topic to the reply; the caller fills the list of (partition, slot)."""
        slots: list[tuple[int, AppendSlot]] = []
        self._topics.append((topic.name, topic.topic_id, slots))
        return slots

    def open_slot(self) -> None:
        """Count a slot that is about to be queued."""
        self._open_slots += 1

    def slot_resolved(self) -> None:
        """See `SlotOwner`."""
        self._open_slots -= 1
        if self._open_slots == 0:
            self.is_complete = True
            if self.connection is not None:
                self.connection.request_completed()

    def forget(self) -> None:
        """Drop the reply: the connection is gone."""
        self.connection = None

    def time_out(self) -> None:
        """Answer what is still open with REQUEST_TIMED_OUT; it may yet be stored.

        Except for retries whose first copy has been stored since they came.
        """
        for _, _, slots in self._topics:
            for _, slot in slots:
                if slot.resolved or (
                    slot.replica is not None and slot.replica.answer_duplicate(slot)
                ):
                    continue
                slot.refuse(
                    ErrorCode.REQUEST_TIMED_OUT, "not stored within the request's timeout_ms"
                )

    def reply(self) -> bytes | None:
        """Return the response frame, or None with acks=0, which has none."""
        if self.acks == 0:
            return None
        topics = [
            (
                name,
                topic_id,
                [
                    PartitionProduceResult(
                        index,
                        slot.code,
                        slot.base_offset,
                        slot.log_append_time_ms,
                        slot.log_start_offset,
                        slot.message,
                    )
                    for index, slot in slots
                ],
            )
            for name, topic_id, slots in self._topics
        ]
        return encode_produce_response(self.correlation_id, self.version, topics, 0)


def start_produce(
    state: BrokerState,
    request: ProduceInFlight,
    frame: memoryview,
    header: RequestHeader,
    *,
    keep_spans: bool,
) -> list[Shard]:
    """Check every batch of a request and queue it; return the shards whose queues are full now.

    `keep_spans` says that the frame's buffer is not used again, so batches need no copy.

    Raises:
        ProtocolError: the bytes are not a Produce request.
    """
    parsed = parse_produce(frame, header.body_start, header.api_version)
    request.acks = parsed.acks
    timeout_ms = min(max(parsed.timeout_ms, 1), TIMEOUT_MS_MAX)
    request.deadline = request.began + timeout_ms / 1000
    crowded: list[Shard] = []
    general_fault = _general_fault(parsed)
    for topic in parsed.topics:
        slots = request.begin_topic(topic)
        routed, fault = _route(state, topic, by_id=header.api_version >= TOPIC_ID_VERSION)
        fault = general_fault or fault
        too_few = _replication_fault(routed, parsed.acks)
        for index, start, end in topic.partitions:
            request.open_slot()
            span = frame[start:end] if start >= 0 else frame[:0]
            slot = AppendSlot(None, b"", None, request)
            slots.append((index, slot))
            if fault is not None or routed is None:
                code, message = fault or (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None)
                slot.refuse(code, message)
                continue
            if too_few is not None:
                _refuse_sequence(state, routed, index, span, header.api_version)
                slot.refuse(*too_few)
                continue
            _queue_batch(state, slot, routed, index, span, header.api_version, keep_spans)
            if slot.replica is not None and not slot.replica.shard.has_room:
                crowded.append(slot.replica.shard)
    request.slot_resolved()
    return crowded


def _general_fault(parsed: ProduceRequest) -> tuple[ErrorCode, str | None] | None:
    """Return what is wrong with the request as a whole."""
    if parsed.acks not in {-1, 0, 1}:
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks must be -1, 0 or 1, not {parsed.acks}"
    if parsed.transactional_id is not None:
        return (
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "this broker does not support transactions",
        )
    return None


def _route(
    state: BrokerState, topic: ProduceTopic, *, by_id: bool
) -> tuple[RoutedTopic | None, tuple[ErrorCode, str | None] | None]:
    if by_id:
        assert topic.topic_id is not None
        routed = state.router.by_id.get(topic.topic_id)
        unknown = ErrorCode.UNKNOWN_TOPIC_ID
    else:
        assert topic.name is not None
        routed = state.router.by_name.get(topic.name)
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if routed is None:
        return None, (unknown, None)
    if routed.is_internal:
        return None, (ErrorCode.INVALID_TOPIC_EXCEPTION, "only the broker writes to this topic")
    return routed, None


def _replication_fault(topic: RoutedTopic | None, acks: int) -> tuple[ErrorCode, str | None] | None:
    """Refuse acks=all where the topic wants more replicas in sync than there are: there is one."""
    if acks == ALL_REPLICAS and topic is not None and topic.config.min_insync_replicas > 1:
        wanted = topic.config.min_insync_replicas
        return ErrorCode.NOT_ENOUGH_REPLICAS, f"min.insync.replicas is {wanted}, 1 is in sync"
    return None


def _refuse_sequence(
    state: BrokerState, topic: RoutedTopic, index: int, span: memoryview, version: int
) -> None:
    """Take note of a batch that is refused and may be sent again: none is to overtake it."""
    replica = topic.replica(index)
    if replica is None or replica.is_closing:
        return
    verdict = check_batch(state, topic, span, version)
    if isinstance(verdict, BatchHeader) and not replica.shard.has_queued(
        replica, verdict.producer_id
    ):
        replica.refuse_sequence(verdict)


def _queue_batch(
    state: BrokerState,
    slot: AppendSlot,
    topic: RoutedTopic,
    index: int,
    span: memoryview,
    version: int,
    keep_spans: bool,  # noqa: FBT001 - private and on the hot path
) -> None:
    replica = topic.replica(index)
    if replica is None:
        slot.refuse(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return
    if replica.is_closing:
        slot.refuse(replica.refusal)
        return
    verdict = check_batch(state, topic, span, version)
    if not isinstance(verdict, BatchHeader):
        slot.refuse(verdict.code, verdict.message)
        return
    slot.header = verdict
    if verdict.producer_id >= 0 and replica.answer_duplicate(slot):
        return
    refusal = replica.shard.log_dir.refusal
    if refusal is not None and not replica.refusal:
        replica.refuse_ahead(slot, *refusal)
        return
    slot.replica = replica
    slot.buffer = span if keep_spans else bytes(span)
    replica.append(slot)


def check_batch(
    state: BrokerState, topic: RoutedTopic, batch: memoryview, version: int = 13
) -> BatchHeader | BatchFault:
    """Check the one batch that was sent for a partition, by its header and checksum."""
    verdict = validate_produced(
        batch,
        max_message_bytes=topic.config.max_message_bytes,
        segment_bytes=topic.config.segment_bytes,
        now_ms=state.host.wall.now_ms(),
        before_max_ms=topic.before_max_ms,
        after_max_ms=topic.after_max_ms,
        api_version=version,
    )
    if isinstance(verdict, BatchHeader) and verdict.is_transactional:
        return BatchFault(
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "this broker does not support transactions",
        )
    return verdict
