"""Metadata (key 3), versions 0 to 13: brokers, topics, partitions and their leaders.

A topic that does not exist is created if the client allows it and `auto_create_topics` is on; the
answer then already names its leader, since creation returns when the replicas run.

A large answer is made in pieces. Which topics and partitions there are is of the moment at which it
was begun, without topics that were deleted before it was their turn. Whether a partition serves is
of the moment at which its own piece was made.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.mutations import Payment, pay_for_mutations
from trio_broker.broker.handlers.topology import (
    CLUSTER_OPERATIONS,
    NO_OPERATIONS,
    TOPIC_OPERATIONS,
    broker_address,
    is_online,
    still_there,
)
from trio_broker.broker.large_answers import Described
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import NewTopic
from trio_broker.metadata.image import PartitionState, TopicState
from trio_broker.names import INTERNAL_TOPIC_NAMES, ZERO_TOPIC_ID, TopicName, topic_name_fault
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence
    from typing import TypeAlias

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic

    _Collecting: TypeAlias = Generator[None, None, list[MetadataResponseTopic]]

logger = logging.getLogger("trio_broker.topics")


#: From this version on topics can be named by id; in the two before it the field is there only.
TOPIC_ID_VERSION = 12


async def handle(
    state: BrokerState, session: Session, version: int, request: MetadataRequest
) -> MetadataResponse:
    """Describe the cluster and the topics asked for, creating those that may be created."""
    await trio.lowlevel.checkpoint()
    wanted = _each_once(request.topics)
    throttle_time_ms = 0
    if wanted is None or (version == 0 and not wanted):
        topics = await state.large_answers.collect(_describe_all(state, request))
    elif version < TOPIC_ID_VERSION and any(
        one.name is None or one.topic_id != ZERO_TOPIC_ID for one in wanted
    ):
        topics = [_refused(one) for one in wanted]
    else:
        payment = await _create_missing(state, session, wanted, request)
        throttle_time_ms = payment.throttle_time_ms
        finding = _find_all(state, request, wanted, payment.refused)
        topics = await state.large_answers.collect(finding)
    node_id, host, port = broker_address(state, session)
    return MetadataResponse(
        throttle_time_ms=throttle_time_ms,
        brokers=[MetadataResponseBroker(node_id=node_id, host=host, port=port)],
        cluster_id=state.controller.image.cluster_id,
        controller_id=node_id,
        topics=topics,
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NO_OPERATIONS
        ),
    )


def _each_once(
    wanted: Sequence[MetadataRequestTopic] | None,
) -> Sequence[MetadataRequestTopic] | None:
    """Leave out what is asked for again, as Apache Kafka does: topics can be large."""
    if not wanted:
        return wanted
    return list({(one.name, one.topic_id): one for one in wanted}.values())


async def _create_missing(
    state: BrokerState,
    session: Session,
    wanted: Sequence[MetadataRequestTopic],
    request: MetadataRequest,
) -> Payment:
    if not (request.allow_auto_topic_creation and state.config.auto_create_topics):
        return Payment((), 0)
    image = state.controller.image
    missing = [
        name
        for name in dict.fromkeys(one.name for one in wanted if one.name is not None)
        if TopicName(name) not in image.topics_by_name
        and name not in INTERNAL_TOPIC_NAMES
        and topic_name_fault(name) is None
    ]
    if not missing or state.draining:
        return Payment((), 0)
    state.large_answers.done()
    payment = pay_for_mutations(state, session, missing, strict=True)
    granted = [NewTopic(name=name) for name in missing if name not in payment.refused]
    if granted:
        who = f"{session.peer} asked for {granted[0].name}, which does not exist: it is created"
        state.paced(logger).log(logging.INFO, "created", f"{who} (auto_create_topics)")
        await state.controller.create_topics(granted)
    return payment


def _refused(wanted: MetadataRequestTopic) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        error_code=ErrorCode.INVALID_REQUEST,
        name=wanted.name or "",
        topic_id=wanted.topic_id,
        partitions=(),
    )


def _describe_all(state: BrokerState, request: MetadataRequest) -> _Collecting:
    image = state.controller.image
    topics = []
    for topic in still_there(state, sorted(image.topics_by_name.items())):
        topics.append(_describe(state, topic, request))
        yield
    return topics


def _find_all(
    state: BrokerState,
    request: MetadataRequest,
    wanted: Sequence[MetadataRequestTopic],
    refused: Collection[str],
) -> _Collecting:
    topics = []
    for one in wanted:
        topic = _find(state, one)
        topics.append(_unknown(one, refused) if topic is None else _describe(state, topic, request))
        yield
    return topics


def _find(state: BrokerState, wanted: MetadataRequestTopic) -> TopicState | None:
    image = state.controller.image
    if wanted.name is None:
        return image.topics_by_id.get(wanted.topic_id)
    return image.topics_by_name.get(TopicName(wanted.name))


def _unknown(wanted: MetadataRequestTopic, refused: Collection[str]) -> MetadataResponseTopic:
    if wanted.name is None:
        code, topic_id = ErrorCode.UNKNOWN_TOPIC_ID, wanted.topic_id
    else:
        topic_id = ZERO_TOPIC_ID
        code = (
            ErrorCode.INVALID_TOPIC_EXCEPTION
            if topic_name_fault(wanted.name)
            else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        )
    if wanted.name in refused:
        code = ErrorCode.LEADER_NOT_AVAILABLE  # clients ask again; there is no code for a quota
    return MetadataResponseTopic(
        error_code=code, name=wanted.name, topic_id=topic_id, partitions=()
    )


def _describe(
    state: BrokerState, topic: TopicState, request: MetadataRequest
) -> MetadataResponseTopic:
    describe = partial(_describe_partition, state.router.by_id.get(topic.topic_id))
    return MetadataResponseTopic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=Described(topic.partitions, describe),
        topic_authorized_operations=(
            TOPIC_OPERATIONS if request.include_topic_authorized_operations else NO_OPERATIONS
        ),
    )


def _describe_partition(
    routed: RoutedTopic | None, partition: PartitionState
) -> MetadataResponsePartition:
    replica_ids = partition.replica_ids
    online = is_online(routed, partition.partition)
    return MetadataResponsePartition(
        error_code=ErrorCode.NONE if online else ErrorCode.LEADER_NOT_AVAILABLE,
        partition_index=partition.partition,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        replica_nodes=replica_ids,
        isr_nodes=partition.isr_ids,
        offline_replicas=() if online else replica_ids,
    )
