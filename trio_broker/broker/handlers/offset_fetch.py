"""OffsetFetch (key 9), versions 1 to 10: how far groups have read.

A partition without a commit answers offset -1 without an error. Offsets committed for an earlier
topic of the same name do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from trio_broker.errors import ErrorCode
from trio_broker.names import ZERO_TOPIC_ID, TopicName
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.group.schemas import OffsetCommitValue

#: From this version on one request asks about many groups.
BATCH_VERSION = 8
#: From this version on topics are named by id.
TOPIC_ID_VERSION = 10
NO_OFFSET = -1
NO_EPOCH = -1


async def handle(
    state: BrokerState, session: Session, version: int, request: OffsetFetchRequest
) -> OffsetFetchResponse:
    """Tell the committed offsets of the partitions asked for, or of all."""
    del session
    await trio.lowlevel.checkpoint()
    if version >= BATCH_VERSION:
        by_id = version >= TOPIC_ID_VERSION
        asked = _Asked()
        groups = []
        for group in request.groups:
            groups.append(await _answer_group(state, group, asked, by_id=by_id))
            await trio.lowlevel.checkpoint()
        return OffsetFetchResponse(groups=groups)
    code = await state.coordinator.load_group(request.group_id)
    if code:
        return OffsetFetchResponse(
            error_code=code, topics=[_refused_topic(topic, code) for topic in request.topics or ()]
        )
    if request.topics is None:
        wanted = _everything(state, request.group_id)
    else:
        asked = _Asked()
        wanted = [
            (topic.name, asked.new(request.group_id, topic.name, topic.partition_indexes))
            for topic in request.topics
        ]
    return OffsetFetchResponse(
        topics=[
            OffsetFetchResponseTopic(
                name=name,
                partitions=[_old_partition(state, request.group_id, name, i) for i in indexes],
            )
            for name, indexes in wanted
        ]
    )


class _Asked:
    """What one request has been answered already, and gets no second time.

    A partition takes four bytes to ask for, and the client's metadata with its offset may be long.
    """

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, str | UUID], set[int]] = {}
        self._groups: set[str] = set()

    def new(self, group_id: str, topic: str | UUID, indexes: Sequence[int]) -> list[int]:
        """Return those partitions that have not been asked for before."""
        known = self._partitions.setdefault((group_id, topic), set())
        found = [index for index in dict.fromkeys(indexes) if index not in known]
        known.update(found)
        return found

    def is_new(self, group_id: str) -> bool:
        """Whether all that a group has committed has not been asked for before."""
        is_new = group_id not in self._groups
        self._groups.add(group_id)
        return is_new


def _everything(state: BrokerState, group_id: str) -> list[tuple[str, Sequence[int]]]:
    offsets = state.coordinator.committed(group_id)
    if offsets is None:
        return []
    return [(name, sorted(parts)) for name, parts in sorted(offsets.fetch_all(group_id).items())]


def _committed(
    state: BrokerState, group_id: str, name: str, partition: int
) -> OffsetCommitValue | None:
    offsets = state.coordinator.committed(group_id)
    if offsets is None:
        return None
    routed = state.router.by_name.get(name)
    topic_id = ZERO_TOPIC_ID if routed is None else routed.topic_id
    return offsets.fetch(group_id, TopicName(name), partition, topic_id)


def _old_partition(
    state: BrokerState, group_id: str, name: str, partition: int
) -> OffsetFetchResponsePartition:
    found = _committed(state, group_id, name, partition)
    return OffsetFetchResponsePartition(
        partition_index=partition,
        committed_offset=NO_OFFSET if found is None else found.offset,
        committed_leader_epoch=NO_EPOCH if found is None else found.leader_epoch,
        metadata="" if found is None else found.metadata,
        error_code=ErrorCode.NONE,
    )


def _refused_topic(topic: OffsetFetchRequestTopic, code: ErrorCode) -> OffsetFetchResponseTopic:
    """Refuse each partition, since version 1 has no other place for it."""
    return OffsetFetchResponseTopic(
        name=topic.name,
        partitions=[
            OffsetFetchResponsePartition(
                partition_index=index,
                committed_offset=NO_OFFSET,
                committed_leader_epoch=NO_EPOCH,
                metadata="",
                error_code=code,
            )
            for index in topic.partition_indexes
        ],
    )


async def _answer_group(
    state: BrokerState, group: OffsetFetchRequestGroup, asked: _Asked, *, by_id: bool
) -> OffsetFetchResponseGroup:
    code = await state.coordinator.load_group(group.group_id)
    if code:
        return OffsetFetchResponseGroup(group_id=group.group_id, topics=(), error_code=code)
    topics: list[OffsetFetchResponseTopics] = []
    if group.topics is None:
        everything = _everything(state, group.group_id) if asked.is_new(group.group_id) else ()
        for name, indexes in everything:
            routed = state.router.by_name.get(name)
            if routed is not None:
                topics.append(_topic(state, group.group_id, name, routed.topic_id, indexes))
        return OffsetFetchResponseGroup(group_id=group.group_id, topics=topics)
    for wanted in group.topics:
        key = wanted.topic_id if by_id else wanted.name
        indexes = asked.new(group.group_id, key, wanted.partition_indexes)
        if not by_id:
            topics.append(_topic(state, group.group_id, wanted.name, ZERO_TOPIC_ID, indexes))
            continue
        routed = state.router.by_id.get(wanted.topic_id)
        if routed is None:
            topics.append(_unknown_topic(wanted.topic_id, indexes))
        else:
            topics.append(_topic(state, group.group_id, routed.name, wanted.topic_id, indexes))
    return OffsetFetchResponseGroup(group_id=group.group_id, topics=topics)


def _topic(
    state: BrokerState, group_id: str, name: str, topic_id: UUID, indexes: Sequence[int]
) -> OffsetFetchResponseTopics:
    partitions = []
    for index in indexes:
        found = _committed(state, group_id, name, index)
        partitions.append(
            OffsetFetchResponsePartitions(
                partition_index=index,
                committed_offset=NO_OFFSET if found is None else found.offset,
                committed_leader_epoch=NO_EPOCH if found is None else found.leader_epoch,
                metadata="" if found is None else found.metadata,
                error_code=ErrorCode.NONE,
            )
        )
    return OffsetFetchResponseTopics(name=name, topic_id=topic_id, partitions=partitions)


def _unknown_topic(topic_id: UUID, indexes: Sequence[int]) -> OffsetFetchResponseTopics:
    return OffsetFetchResponseTopics(
        topic_id=topic_id,
        partitions=[
            OffsetFetchResponsePartitions(
                partition_index=index,
                committed_offset=NO_OFFSET,
                committed_leader_epoch=NO_EPOCH,
                metadata="",
                error_code=ErrorCode.UNKNOWN_TOPIC_ID,
            )
            for index in indexes
        ],
    )
