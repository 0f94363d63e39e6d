"""Fetch (key 1), versions 4 to 18: read record batches, waiting for them if there are too few.

Whole batches are returned, beginning with the one that contains the offset asked for; clients skip
what comes before it. Fetch sessions (KIP-227) are declined by answering session id 0, which every
client accepts. Followers are not served: there is one replica of each partition.

A fetch that finds less than it asked for is parked on the replicas concerned and woken by the
commit that brings enough bytes, by its deadline, by a change of a partition's state, or by the
broker's draining; it never polls.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.replica import FetchWaiter
from trio_broker.errors import ErrorCode, StorageError
from trio_broker.wire.fetch import (
    EpochEndOffset,
    FetchTopic,
    PartitionFetchResult,
    encode_fetch_response,
    parse_fetch,
)

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Buffer
    from trio_broker.storage.log import Log, ReadPlan
    from trio_broker.wire.fetch import FetchPartition, FetchRequest
    from trio_broker.wire.headers import RequestHeader

logger = logging.getLogger("trio_broker.fetch")

TOPIC_ID_VERSION = 13
#: Session epochs of a whole fetch: one that asks for a session, and one without (KIP-227).
_WHOLE_FETCH_EPOCHS = frozenset({0, -1})
READ_COMMITTED = 1
#: Partitions looked at before others get a turn: less than a millisecond.
TARGETS_PER_TURN = 100


class _Target:
    """One partition of a fetch: where it leads, and what would be read of it now."""

    __slots__ = ("code", "diverging", "log", "plan", "replica", "wanted")

    def __init__(self, wanted: FetchPartition, replica: Replica | None, code: ErrorCode) -> None:
        self.wanted = wanted
        self.replica = replica
        self.code = code
        self.log: Log | None = None
        self.plan: ReadPlan | None = None
        self.diverging: EpochEndOffset | None = None


async def answer_fetch(
    state: BrokerState, header: RequestHeader, frame: memoryview
) -> Sequence[Buffer]:
    """Answer a Fetch request with buffers for one vectored send.

    Cancellation: nothing was changed.

    Raises:
        ProtocolError: the bytes are not a Fetch request.
    """
    request = parse_fetch(frame, header.body_start, header.api_version)
    code = _session_fault(request)
    if code:
        return encode_fetch_response(
            header.correlation_id,
            header.api_version,
            throttle_time_ms=0,
            error_code=code,
            session_id=0,
            topics=[],
        )
    topics = await fetch(state, request, by_id=header.api_version >= TOPIC_ID_VERSION)
    return encode_fetch_response(
        header.correlation_id,
        header.api_version,
        throttle_time_ms=0,
        error_code=0,
        session_id=0,
        topics=[
            (topic.name, topic.topic_id, results)
            for topic, results in zip(request.topics, topics, strict=True)
        ],
    )


async def fetch(
    state: BrokerState, request: FetchRequest, *, by_id: bool
) -> list[list[PartitionFetchResult]]:
    """Read what is asked for, waiting as the request says; one list of results per topic."""
    await trio.lowlevel.checkpoint()  # what is in memory is read, and often sent, without waiting
    known: dict[object, dict[int, _Target]] = {}
    topics = [_targets(state, topic, request, known, by_id=by_id) for topic in request.topics]
    targets = [target for topic in topics for target in topic]
    readable_bytes = await _wait_for_enough(state, request, targets)
    memory = state.response_memory
    if readable_bytes:  # else slow readers would hold up those for whom there is nothing
        await memory.wait_for_room()
    memory.take(readable_bytes)
    try:
        return [await _answer_all(state, request, topic) for topic in topics]
    finally:
        memory.give_back(readable_bytes)


async def _wait_for_enough(
    state: BrokerState, request: FetchRequest, targets: Sequence[_Target]
) -> int:
    """Plan what to read until that is enough, or may not be waited for; return how much it is.

    Where planning takes several turns, what arrives meanwhile is watched from the beginning: it may
    concern a partition that had its turn.
    """
    deadline = trio.current_time() + max(request.max_wait_ms, 0) / 1000
    min_bytes = min(request.min_bytes, _most_bytes(state, request))
    while True:
        waiter = FetchWaiter(min_bytes)
        try:
            if len(targets) >= TARGETS_PER_TURN:
                _watch(waiter, targets)
            readable_bytes = await _plan(state, request, targets)
            if (
                readable_bytes >= min_bytes
                or any(_cannot_wait(target) for target in targets)
                or not targets
                or state.draining
                or trio.current_time() >= deadline
            ):
                return readable_bytes
            _watch(waiter, targets)
            waiter.arrived(readable_bytes)
            with trio.move_on_at(deadline):
                await waiter.wait()
        finally:
            for target in targets:
                if target.replica is not None:
                    target.replica.waiters.pop(waiter, None)


def _most_bytes(state: BrokerState, request: FetchRequest) -> int:
    """Return how much the answer may be, in all."""
    return min(request.max_bytes, state.config.network.fetch_bytes_max)


def _cannot_wait(target: _Target) -> bool:
    """Whether a partition is to be answered at once, however little that is.

    So is one whose segment is complete, as in Apache Kafka: the next ones are read by themselves.
    """
    return bool(
        target.code or target.diverging or (target.plan is not None and not target.plan.can_grow)
    )


def _watch(waiter: FetchWaiter, targets: Sequence[_Target]) -> None:
    for target in targets:
        if target.replica is not None:
            target.replica.waiters[waiter] = None


def _session_fault(request: FetchRequest) -> ErrorCode:
    if request.session_epoch in _WHOLE_FETCH_EPOCHS:
        return ErrorCode.NONE  # whatever session it ends: all that is wanted is in the request
    return ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def _targets(
    state: BrokerState,
    topic: FetchTopic,
    request: FetchRequest,
    known: dict[object, dict[int, _Target]],
    *,
    by_id: bool,
) -> list[_Target]:
    """Return the partitions of one topic that have not been asked for before.

    What is asked for again takes the place of what was, as in Apache Kafka: else a request of 4 MiB
    could let a hundred thousand targets wait for one partition, looked through with every commit.
    """
    known_here = known.setdefault(topic.topic_id if by_id else topic.name, {})
    if by_id:
        assert topic.topic_id is not None
        routed = state.router.by_id.get(topic.topic_id)
        unknown = ErrorCode.UNKNOWN_TOPIC_ID
    else:
        assert topic.name is not None
        routed = state.router.by_name.get(topic.name)
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    targets = []
    for wanted in topic.partitions:
        if (before := known_here.get(wanted.index)) is not None:
            before.wanted = wanted
            continue
        replica, code = None, ErrorCode.NONE
        if request.replica_id >= 0:
            code = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        elif routed is None:
            code = unknown
        else:
            replica = routed.replica(wanted.index)
            if replica is None:
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        known_here[wanted.index] = target = _Target(wanted, replica, code)
        targets.append(target)
    return targets


async def _plan(state: BrokerState, request: FetchRequest, targets: Sequence[_Target]) -> int:
    """Decide what to read of each partition; return how many bytes that is in all."""
    room = _most_bytes(state, request)
    readable_bytes = 0
    for number, target in enumerate(targets):
        if number % TARGETS_PER_TURN == TARGETS_PER_TURN - 1:
            await _let_others_run()
        replica = target.replica
        if replica is None:
            continue
        limit = max(0, min(target.wanted.max_bytes, room - readable_bytes))
        is_first = readable_bytes == 0
        fault = state.supervisor.absorb_now(
            replica.boundary, _locate, request, target, replica, limit, at_least_one=is_first
        )
        if fault is not None:
            target.code = ErrorCode.UNKNOWN_SERVER_ERROR
        elif target.plan is not None and not target.plan.is_empty:
            readable_bytes += max(target.plan.available_bytes, is_first)
    return readable_bytes


def _locate(
    request: FetchRequest, target: _Target, replica: Replica, limit: int, *, at_least_one: bool
) -> None:
    """Decide what to read of one partition."""
    target.plan = None
    target.code = replica.refusal or replica.epoch_fault(target.wanted.current_leader_epoch)
    if target.code:
        return
    target.log = replica.log
    target.diverging = _divergence(target.wanted, replica)
    if target.diverging is not None:
        if target.diverging.epoch < 0:
            target.code = ErrorCode.OFFSET_OUT_OF_RANGE  # of an epoch that is not in this log
        return
    committed = request.isolation_level == READ_COMMITTED
    target.plan = replica.log.locate(
        target.wanted.fetch_offset,
        max_bytes=limit,
        upper_offset=replica.last_stable_offset if committed else replica.high_watermark,
        at_least_one=at_least_one,
    )
    if target.plan is None:
        target.code = ErrorCode.OFFSET_OUT_OF_RANGE


def _divergence(wanted: FetchPartition, replica: Replica) -> EpochEndOffset | None:
    """Say where our log ends for the epoch the client last read, if it has read past that.

    Epoch -1 says that the log knows nothing of that epoch.
    """
    if wanted.last_fetched_epoch < 0:
        return None
    epoch, end_offset = replica.log.epochs.end_offset_for(
        wanted.last_fetched_epoch, replica.log.log_end_offset
    )
    if epoch == wanted.last_fetched_epoch and wanted.fetch_offset <= end_offset:
        return None
    return EpochEndOffset(epoch, end_offset)


async def _let_others_run() -> None:
    await trio.lowlevel.checkpoint()


async def _answer_all(
    state: BrokerState, request: FetchRequest, targets: Sequence[_Target]
) -> list[PartitionFetchResult]:
    results: list[PartitionFetchResult] = []
    for target in targets:
        if len(results) % TARGETS_PER_TURN == TARGETS_PER_TURN - 1:
            await _let_others_run()
        results.append(await _answer(state, request, target))
    return results


async def _answer(
    state: BrokerState, request: FetchRequest, target: _Target
) -> PartitionFetchResult:
    """Read one partition; a fault in that is the answer for this partition, not for others."""
    replica = target.replica
    if replica is None or target.code:
        return PartitionFetchResult(target.wanted.index, target.code)
    found = await state.supervisor.result_of(
        replica.boundary, _read, state, request, target, replica
    )
    return found or PartitionFetchResult(target.wanted.index, ErrorCode.UNKNOWN_SERVER_ERROR)


async def _read(
    state: BrokerState, request: FetchRequest, target: _Target, replica: Replica
) -> PartitionFetchResult:
    plan, log = target.plan, target.log
    index = target.wanted.index
    if replica.refusal or replica.log is not log:
        # Closed, or opened again, while this fetch was reading from others.
        return PartitionFetchResult(index, replica.refusal or ErrorCode.KAFKA_STORAGE_ERROR)
    assert log is not None
    records: Sequence[Buffer] = ()
    high_watermark, stable = replica.high_watermark, replica.last_stable_offset
    start_offset = log.log_start_offset
    if plan is not None and not plan.is_empty:
        try:
            cached = log.read_cached(plan)
            if cached is None:
                cached = await replica.shard.read(log.read_job(plan))
        except (StorageError, OSError) as error:
            what = f"{replica!r}: reading at {target.wanted.fetch_offset}: {error}"
            state.paced(logger).log(logging.ERROR, "read", what)
            code = replica.refusal or ErrorCode.KAFKA_STORAGE_ERROR
            return PartitionFetchResult(index, code)
        records = cached
        if not records and log.log_start_offset > target.wanted.fetch_offset:
            # Retention has taken it while it was being looked for.
            return PartitionFetchResult(index, ErrorCode.OFFSET_OUT_OF_RANGE)
        if records:
            replica.topic.traffic.fetched(sum(map(len, records)))
    return PartitionFetchResult(
        index,
        ErrorCode.NONE,
        high_watermark,
        stable,
        start_offset,
        records,
        aborted_transactions=[] if request.isolation_level == READ_COMMITTED else None,
        diverging_epoch=target.diverging,
    )
