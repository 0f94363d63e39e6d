"""Offsets that brokers know: ends and timestamps of logs, and what groups have committed.

Used by the admin client and by consumers. Requests to several brokers go out one after another:
nothing here starts tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from attrs import frozen

from trio_broker.client.cluster import ADMIN, COORDINATOR
from trio_broker.client.errors import request_error
from trio_broker.client.metadata import NOBODY
from trio_broker.client.remedies import CONNECTION_FAILURES, Remedy, remedy_for
from trio_broker.client.types import (
    CommittedOffset,
    IsolationLevel,
    ListedOffset,
    TopicPartition,
)
from trio_broker.errors import ErrorCode, RequestError
from trio_broker.wire.message import Request, Response
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trio_broker.client.cluster import Cluster

R = TypeVar("R", bound=Response)

_NO_REPLICA = -1
_NO_OFFSET = -1
#: From version 10 on offsets are named by topic ids, which those of deleted topics have no use for.
_NAMED_VERSION_MAX = 9


@frozen
class Membership:
    """Who commits: a member of a generation, or nobody (then only while a group has no members)."""

    generation: int = -1
    member_id: str = ""
    instance_id: str | None = None


NO_MEMBERSHIP = Membership()


def by_topic(partitions: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Group partitions by topic, in order."""
    grouped: dict[str, list[int]] = {}
    for topic, partition in partitions:
        grouped.setdefault(topic, []).append(partition)
    return grouped


async def list_offsets(
    cluster: Cluster,
    wanted: Mapping[TopicPartition, int],
    *,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    timeout_seconds: float | None = None,
) -> dict[TopicPartition, ListedOffset]:
    """Ask the leaders of partitions for offsets.

    Args:
        cluster: where.
        wanted: for each partition a timestamp in milliseconds, or an `OffsetSpec`.
        isolation: whether LATEST is the end of what is committed.
        timeout_seconds: None: the client's call timeout.

    Raises:
        RequestError: there is no such partition, or its leader refuses.
        RequestTimedOut: the time is up.

    Cancellation: nothing has changed.
    """
    found: dict[TopicPartition, ListedOffset] = {}
    for topic, indexes in by_topic(wanted).items():
        view = await cluster.topic(topic)
        for index in indexes:
            if index not in view.partitions:
                raise request_error(
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{topic!r} has no partition {index}"
                )

    async def ask_those_left() -> None:
        by_leader: dict[int, list[TopicPartition]] = {}
        for place in wanted.keys() - found.keys():
            by_leader.setdefault(cluster.view.leader(*place), []).append(place)
        failures: list[Exception] = []
        for leader, places in sorted(by_leader.items()):
            if leader == NOBODY:
                failures.append(request_error(ErrorCode.LEADER_NOT_AVAILABLE, f"{places[0]}"))
                continue
            asked = {place: wanted[place] for place in sorted(places)}
            try:
                answer = await ask_leader(cluster, leader, ADMIN, asked, isolation)
            except CONNECTION_FAILURES as error:
                failures.append(error)
                continue
            found.update(answer.found)
            failures += answer.failures.values()
        if failures:
            raise most_final(failures)

    await cluster.retrying(ask_those_left, timeout_seconds=timeout_seconds)
    return found


def most_final(failures: Sequence[Exception]) -> Exception:
    """Return the failure that most speaks against another attempt."""
    return min(
        failures,
        key=lambda failure: (
            not isinstance(failure, RequestError) or Remedy.RETRY in remedy_for(failure.code)
        ),
    )


class LeaderAnswer(NamedTuple):
    """What one leader says about offsets: of each partition one or the other."""

    found: dict[TopicPartition, ListedOffset]
    failures: dict[TopicPartition, RequestError]


async def ask_leader(
    cluster: Cluster,
    leader: int,
    purpose: str,
    wanted: Mapping[TopicPartition, int],
    isolation: IsolationLevel,
) -> LeaderAnswer:
    """Ask one broker for offsets of partitions that it leads, once.

    Raises:
        ConnectionLost, Unreachable, RequestTimedOut, OSError: no answer.
        ProtocolError, VersionMismatch: it is no broker we can talk to.
    """
    request = _list_offsets_request(cluster, wanted, isolation)
    answer = await cluster.call(leader, purpose, request, ListOffsetsResponse)
    found: dict[TopicPartition, ListedOffset] = {}
    failures: dict[TopicPartition, RequestError] = {}
    for topic in answer.topics:
        for partition in topic.partitions:
            place = TopicPartition(topic.name, partition.partition_index)
            if partition.error_code:
                failures[place] = request_error(partition.error_code, f"offset of {place}")
            else:
                found[place] = ListedOffset(
                    partition.offset, partition.timestamp, partition.leader_epoch
                )
    for place in wanted.keys() - found.keys() - failures.keys():
        failures[place] = request_error(ErrorCode.NETWORK_EXCEPTION, f"no answer about {place}")
    return LeaderAnswer(found, failures)


def _list_offsets_request(
    cluster: Cluster,
    wanted: Mapping[TopicPartition, int],
    isolation: IsolationLevel,
) -> ListOffsetsRequest:
    topics = []
    for topic, indexes in by_topic(wanted).items():
        partitions = []
        for index in indexes:
            view = cluster.view.partition(topic, index)
            partitions.append(
                ListOffsetsPartition(
                    partition_index=index,
                    current_leader_epoch=-1 if view is None else view.leader_epoch,
                    timestamp=int(wanted[TopicPartition(topic, index)]),
                )
            )
        topics.append(ListOffsetsTopic(name=topic, partitions=partitions))
    return ListOffsetsRequest(
        replica_id=_NO_REPLICA,
        isolation_level=isolation,
        topics=topics,
        timeout_ms=int(cluster.options.request_timeout_seconds * 1000),
    )


async def fetch_committed(
    cluster: Cluster,
    group: str,
    partitions: Iterable[tuple[str, int]] | None,
    *,
    require_stable: bool = False,
    timeout_seconds: float | None = None,
) -> dict[TopicPartition, CommittedOffset]:
    """Ask for what a group has committed.

    Args:
        cluster: where.
        group: its id.
        partitions: which; None: all that there is.
        require_stable: wait for transactions that commit offsets (KIP-447).
        timeout_seconds: None: the client's call timeout.

    Returns:
        An entry for each partition that has a committed offset.

    Raises:
        RequestError: the coordinator refuses.
        RequestTimedOut: the time is up.

    Cancellation: nothing has changed.
    """
    old_topics: list[OffsetFetchRequestTopic] | None = None
    topics: list[OffsetFetchRequestTopics] | None = None
    if partitions is not None:
        grouped = by_topic(partitions)
        if not grouped:
            return {}
        old_topics = [
            OffsetFetchRequestTopic(name=name, partition_indexes=indexes)
            for name, indexes in grouped.items()
        ]
        topics = [
            OffsetFetchRequestTopics(name=name, partition_indexes=indexes)
            for name, indexes in grouped.items()
        ]
    request = OffsetFetchRequest(
        group_id=group,
        topics=old_topics,
        groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)],
        require_stable=require_stable,
    )

    async def ask() -> dict[TopicPartition, CommittedOffset]:
        answer = await call_coordinator(cluster, group, request, OffsetFetchResponse)
        check_group_code(cluster, group, answer.error_code)
        found: dict[TopicPartition, CommittedOffset] = {}
        answered: list[tuple[str, Sequence[Any]]] = []
        answered += [(topic.name, topic.partitions) for topic in answer.topics]
        for of_group in answer.groups:
            check_group_code(cluster, group, of_group.error_code)
            answered += [(topic.name, topic.partitions) for topic in of_group.topics]
        for name, committed in answered:
            for partition in committed:
                check_group_code(cluster, group, partition.error_code)
                if partition.committed_offset != _NO_OFFSET:
                    found[TopicPartition(name, partition.partition_index)] = CommittedOffset(
                        partition.committed_offset,
                        partition.metadata or "",
                        partition.committed_leader_epoch,
                    )
        return found

    return await cluster.retrying(ask, timeout_seconds=timeout_seconds)


async def commit_offsets(
    cluster: Cluster,
    group: str,
    offsets: Mapping[TopicPartition, CommittedOffset],
    *,
    membership: Membership = NO_MEMBERSHIP,
    timeout_seconds: float | None = None,
) -> None:
    """Commit offsets of a group; all are durable when this returns.

    Args:
        cluster: where.
        group: its id.
        offsets: of the next record to process, by partition.
        membership: of a consumer in the group.
        timeout_seconds: None: the client's call timeout.

    Raises:
        RequestError: ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID and REBALANCE_IN_PROGRESS tell that the
            partitions may belong to somebody else by now.
        RequestTimedOut: the time is up.

    Cancellation: unknown whether they were committed; doing it again does no harm.
    """
    if not offsets:
        return
    topics = []
    for name, indexes in by_topic(offsets).items():
        partitions = []
        for index in indexes:
            offset, metadata, leader_epoch = offsets[TopicPartition(name, index)]
            partitions.append(
                OffsetCommitRequestPartition(
                    partition_index=index,
                    committed_offset=offset,
                    committed_leader_epoch=leader_epoch,
                    committed_metadata=metadata,
                )
            )
        topics.append(OffsetCommitRequestTopic(name=name, partitions=partitions))
    request = OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=membership.generation,
        member_id=membership.member_id,
        group_instance_id=membership.instance_id,
        topics=topics,
    )

    async def commit() -> None:
        answer = await call_coordinator(cluster, group, request, OffsetCommitResponse)
        for topic in answer.topics:
            for partition in topic.partitions:
                check_group_code(
                    cluster,
                    group,
                    partition.error_code,
                    f"commit of {topic.name}-{partition.partition_index}",
                )

    await cluster.retrying(commit, timeout_seconds=timeout_seconds)


async def call_coordinator(
    cluster: Cluster,
    group: str,
    request: Request,
    response_type: type[R],
    *,
    purpose: str = COORDINATOR,
    timeout_seconds: float | None = None,
) -> R:
    """Send a request to the coordinator of a group, once.

    Raises:
        RequestError: it cannot be found.
        ConnectionLost, Unreachable, RequestTimedOut, OSError: no answer; the coordinator will be
            looked for again.

    Cancellation: unknown whether the coordinator acted.
    """
    node_id = await cluster.coordinator(group)
    try:
        return await cluster.call(
            node_id,
            purpose,
            request,
            response_type,
            timeout_seconds=timeout_seconds,
            version_max=_NAMED_VERSION_MAX,
        )
    except CONNECTION_FAILURES:
        cluster.forget_coordinator(group)
        raise


def check_group_code(cluster: Cluster, group: str, code: int, what: str = "") -> None:
    """Raise what a coordinator has answered, if it is an error.

    Raises:
        RequestError: the code is not 0.
    """
    if code:
        if Remedy.FIND_COORDINATOR in remedy_for(code):
            cluster.forget_coordinator(group)
        raise request_error(code, what or f"group {group!r}")
