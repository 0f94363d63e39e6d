"""OffsetFetch (key 9), versions 1 to 10: how far groups have read.

A partition without a commit answers offset -1 without an error. Offsets committed for an earlier
topic of the same name do not count. All that is told of one group is of one moment, however many
pieces the answer is made in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
    from collections.abc import Callable, Generator, Mapping, Sequence
    from uuid import UUID

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
    state.large_answers.done()
    code = await state.coordinator.load_group(request.group_id)
    if code:
        return OffsetFetchResponse(
            error_code=code, topics=[_refused_topic(topic, code) for topic in request.topics or ()]
        )
    if request.topics is None:
        found = _everything(state, request.group_id)
    else:
        asked = _Asked()
        found = [
            _look_up(
                state,
                request.group_id,
                topic.name,
                asked.new(request.group_id, topic.name, topic.partition_indexes),
            )
            for topic in request.topics
        ]
    making = _topics(found, _old_topic, OffsetFetchResponsePartition)
    return OffsetFetchResponse(topics=await state.large_answers.collect(making))


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


class _Found(NamedTuple):
    """What a group has committed for a topic at one moment, and which partitions to tell of.

    Attributes:
        name: of the topic.
        topic_id: of the topic that has this name now; None: there is none.
        indexes: partitions.
        offsets: by partition. Those for an earlier topic of this name do not count.
    """

    name: str
    topic_id: UUID | None
    indexes: Sequence[int]
    offsets: Mapping[int, OffsetCommitValue]

    def offset(self, partition: int) -> OffsetCommitValue | None:
        """Return what counts for a partition."""
        found = self.offsets.get(partition)
        if found is None or not found.is_for(self.topic_id or ZERO_TOPIC_ID):
            return None
        return found


def _everything(state: BrokerState, group_id: str) -> list[_Found]:
    machine = state.coordinator.committed(group_id)
    if machine is None:
        return []
    by_topic = machine.fetch_all(group_id)
    return [
        _look_up(state, group_id, name, sorted(offsets))
        for name, offsets in sorted(by_topic.items())
    ]


def _look_up(state: BrokerState, group_id: str, name: str, indexes: Sequence[int]) -> _Found:
    """Take a copy of what a group has committed for a topic: it may change while it is told."""
    machine = state.coordinator.committed(group_id)
    offsets = {} if machine is None else machine.fetch_all(group_id).get(TopicName(name), {})
    wanted = {index: offsets[index] for index in indexes if index in offsets}
    routed = state.router.by_name.get(name)
    return _Found(name, None if routed is None else routed.topic_id, indexes, wanted)


#: What one request is answered with, and what several are: the same fields, by other names.
_Topic = TypeVar("_Topic", OffsetFetchResponseTopic, OffsetFetchResponseTopics)


def _topics(
    found: Sequence[_Found | _Topic],
    make_topic: Callable[..., _Topic],
    make_partition: Callable[..., OffsetFetchResponsePartition | OffsetFetchResponsePartitions],
) -> Generator[None, None, list[_Topic]]:
    """Make the answer for each topic that has none yet; yields after each partition."""
    topics = []
    for topic in found:
        if not isinstance(topic, _Found):
            topics.append(topic)
            yield
            continue
        partitions = []
        for index in topic.indexes:
            offset = topic.offset(index)
            partitions.append(
                make_partition(
                    partition_index=index,
                    committed_offset=NO_OFFSET if offset is None else offset.offset,
                    committed_leader_epoch=NO_EPOCH if offset is None else offset.leader_epoch,
                    metadata="" if offset is None else offset.metadata,
                    error_code=ErrorCode.NONE,
                )
            )
            yield
        topics.append(make_topic(topic, partitions))
    return topics


def _old_topic(
    found: _Found, partitions: list[OffsetFetchResponsePartition]
) -> OffsetFetchResponseTopic:
    return OffsetFetchResponseTopic(name=found.name, partitions=partitions)


def _new_topic(
    found: _Found, partitions: list[OffsetFetchResponsePartitions]
) -> OffsetFetchResponseTopics:
    topic_id = found.topic_id or ZERO_TOPIC_ID
    return OffsetFetchResponseTopics(name=found.name, topic_id=topic_id, partitions=partitions)


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
    state.large_answers.done()
    code = await state.coordinator.load_group(group.group_id)
    if code:
        return OffsetFetchResponseGroup(group_id=group.group_id, topics=(), error_code=code)
    found: list[_Found | OffsetFetchResponseTopics] = []
    if group.topics is None:
        everything = _everything(state, group.group_id) if asked.is_new(group.group_id) else ()
        found += [topic for topic in everything if topic.topic_id is not None]
    for wanted in group.topics or ():
        name = wanted.name
        key = wanted.topic_id if by_id else name
        indexes = asked.new(group.group_id, key, wanted.partition_indexes)
        if by_id:
            routed = state.router.by_id.get(wanted.topic_id)
            if routed is None:
                found.append(_unknown_topic(wanted.topic_id, indexes))
                continue
            name = routed.name
        found.append(_look_up(state, group.group_id, name, indexes))
    making = _topics(found, _new_topic, OffsetFetchResponsePartitions)
    topics = await state.large_answers.collect(making)
    return OffsetFetchResponseGroup(group_id=group.group_id, topics=topics)


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
