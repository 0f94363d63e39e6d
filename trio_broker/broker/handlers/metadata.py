"""Metadata (key 3), versions 0 to 13: brokers, topics, partitions and their leaders.

A topic that does not exist is created if the client allows it and `auto_create_topics` is on; the
answer then already names its leader, since creation returns when the replicas run.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.mutations import Payment, pay_for_mutations
from trio_broker.broker.handlers.topology import (
    CLUSTER_OPERATIONS,
    NO_OPERATIONS,
    TOPIC_OPERATIONS,
    broker_address,
    is_online,
)
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
    from collections.abc import Collection, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

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
        image = state.controller.image
        topics = [
            _describe(state, topic, request) for name, topic in sorted(image.topics_by_name.items())
        ]
    elif version < TOPIC_ID_VERSION and any(
        one.name is None or one.topic_id != ZERO_TOPIC_ID for one in wanted
    ):
        topics = [_refused(one) for one in wanted]
    else:
        payment = await _create_missing(state, session, wanted, request)
        throttle_time_ms = payment.throttle_time_ms
        topics = [_find(state, one, request, payment.refused) for one in wanted]
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


def _find(
    state: BrokerState,
    wanted: MetadataRequestTopic,
    request: MetadataRequest,
    refused: Collection[str],
) -> MetadataResponseTopic:
    image = state.controller.image
    if wanted.name is None:
        topic = image.topics_by_id.get(wanted.topic_id)
        code = ErrorCode.UNKNOWN_TOPIC_ID
    else:
        topic = image.topics_by_name.get(TopicName(wanted.name))
        code = (
            ErrorCode.INVALID_TOPIC_EXCEPTION
            if topic_name_fault(wanted.name)
            else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        )
    if topic is not None:
        return _describe(state, topic, request)
    if wanted.name in refused:
        code = ErrorCode.LEADER_NOT_AVAILABLE  # clients ask again; there is no code for a quota
    topic_id = wanted.topic_id if wanted.name is None else ZERO_TOPIC_ID
    return MetadataResponseTopic(
        error_code=code, name=wanted.name, topic_id=topic_id, partitions=()
    )


def _describe(
    state: BrokerState, topic: TopicState, request: MetadataRequest
) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=[_describe_partition(state, partition) for partition in topic.partitions],
        topic_authorized_operations=(
            TOPIC_OPERATIONS if request.include_topic_authorized_operations else NO_OPERATIONS
        ),
    )


def _describe_partition(state: BrokerState, partition: PartitionState) -> MetadataResponsePartition:
    online = is_online(state, partition)
    return MetadataResponsePartition(
        error_code=ErrorCode.NONE if online else ErrorCode.LEADER_NOT_AVAILABLE,
        partition_index=partition.partition,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        replica_nodes=partition.replica_ids,
        isr_nodes=partition.isr_ids,
        offline_replicas=() if online else partition.replica_ids,
    )
