"""What a test wants to know of a broker: its records, its groups' offsets and their lag.

For a `Broker` in the same Trio run, such as `memory_broker`'s. Nothing here is a client: no
connection is made, no fault is met, no offset is committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import frozen
from sniffio import AsyncLibraryNotFoundError, current_async_library

from trio_broker.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.embed import Broker
    from trio_broker.broker.topics import RoutedTopic

#: What is waited for is looked at this often.
LOOK_SECONDS = 0.01


@frozen(kw_only=True)
class StoredRecord:
    """A record as a consumer would get it.

    Attributes:
        timestamp_ms: since the Unix epoch.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class NotReached(AssertionError):
    """What a test waited for has not come about in time; the message says how far it came."""


def hint_for_event_loops() -> str:
    """Return what to say of a wait in vain that has blocked the event loop of this thread."""
    try:
        library = current_async_library()
    except AsyncLibraryNotFoundError:
        return ""
    where = "asyncio.to_thread" if library == "asyncio" else "trio.to_thread.run_sync"
    return f"; this wait has blocked {library} in its thread: call it through {where}"


def _routed(broker: Broker, topic: str) -> RoutedTopic:
    routed = broker._state.router.by_name.get(topic)
    if routed is None:
        raise RequestError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic!r}")
    return routed


async def records(
    broker: Broker, topic: str, *, partition: int | None = None
) -> list[StoredRecord]:
    """Return the records of a topic, by partition and offset.

    Args:
        broker: which.
        topic: name.
        partition: of this one only; None: of all.

    Raises:
        RequestError: there is no such topic or partition, or it cannot be read now.
    """
    routed = _routed(broker, topic)
    chosen = range(len(routed.replicas)) if partition is None else [partition]
    found: list[StoredRecord] = []
    for index in chosen:
        async with broker.read(topic, index, offset=-2) as reader:
            replica = routed.replica(index)
            assert replica is not None
            end_offset = replica.high_watermark
            while reader.next_offset < end_offset:
                record = await reader.receive()
                found.append(
                    StoredRecord(
                        topic=topic,
                        partition=index,
                        offset=record.offset,
                        timestamp_ms=record.timestamp_ms,
                        key=record.key,
                        value=record.value,
                        headers=tuple(record.headers),
                    )
                )
    return found


def committed(broker: Broker, group: str) -> dict[tuple[str, int], int]:
    """Return the offsets that a group has committed, by (topic, partition); empty if none.

    An offset is that of the next record to read, as in Kafka.
    """
    for found in broker.statistics().groups:
        if found.group_id == group:
            return {(offset.topic, offset.partition): offset.offset for offset in found.offsets}
    return {}


def lag(broker: Broker, group: str, topics: Sequence[str] = ()) -> int | None:
    """Return how many records a group has not committed yet.

    Counted over all partitions of the topics; one without a committed offset counts from its first
    record that there still is.

    Args:
        broker: which.
        group: its id.
        topics: names; none: those of which the group has committed something.

    Returns:
        None if no topic was given and the group has committed nothing.

    Raises:
        RequestError: there is no such topic.
    """
    offsets = committed(broker, group)
    names = dict.fromkeys(topics or [topic for topic, _ in offsets])
    if not names:
        return None
    total = 0
    for name in names:
        for index, replica in enumerate(_routed(broker, name).replicas):
            if replica is None:
                continue
            start_offset = replica.log.log_start_offset if replica.has_log else 0
            position = max(offsets.get((name, index), start_offset), start_offset)
            total += max(replica.high_watermark - position, 0)
    return total


async def wait_for_lag(
    broker: Broker,
    group: str,
    most: int = 0,
    *,
    topics: Sequence[str] = (),
    timeout_seconds: float = 10.0,
) -> None:
    """Wait until a group has not more than so many records left to commit; see `lag`.

    Raises:
        NotReached: it takes longer than `timeout_seconds`.
        RequestError: there is no such topic.
    """
    now = None
    with trio.move_on_after(timeout_seconds):
        while True:
            now = lag(broker, group, topics)
            if now is not None and now <= most:
                return
            await trio.sleep(LOOK_SECONDS)
    state = "has committed nothing" if now is None else f"has a lag of {now}"
    raise NotReached(
        f"group {group!r} {state} after {timeout_seconds:g} s: {committed(broker, group)}"
    )


async def wait_for_records(
    broker: Broker, topic: str, count: int, *, timeout_seconds: float = 10.0
) -> list[StoredRecord]:
    """Wait until a topic holds at least so many records, and return all that it holds.

    The topic need not exist yet.

    Raises:
        NotReached: it takes longer than `timeout_seconds`.
    """
    stored = 0
    with trio.move_on_after(timeout_seconds):
        while True:
            routed = broker._state.router.by_name.get(topic)
            if routed is not None:
                stored = sum(
                    replica.high_watermark - replica.log.log_start_offset
                    for replica in routed.replicas
                    if replica is not None and replica.has_log
                )
                if stored >= count:
                    return await records(broker, topic)
            await trio.sleep(LOOK_SECONDS)
    raise NotReached(f"{topic!r} holds {stored} records after {timeout_seconds:g} s, not {count}")
