"""OffsetDelete (key 47), version 0: forget a group's offsets of topics it does not subscribe to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import CodesReply
from trio_broker.names import TopicName
from trio_broker.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: OffsetDeleteRequest
) -> OffsetDeleteResponse:
    """Forget the offsets of partitions that exist; a code for each."""
    del session, version
    if not request.group_id:
        await trio.lowlevel.checkpoint()
        return OffsetDeleteResponse(error_code=ErrorCode.INVALID_GROUP_ID, topics=())
    wanted = [
        (TopicName(topic.name), partition.partition_index)
        for topic in request.topics
        for partition in topic.partitions
        if _exists(state, topic.name, partition.partition_index)
    ]
    reply = await state.coordinator.ask(
        request.group_id,
        lambda machine, token, now: machine.delete_offsets(token, request.group_id, wanted, now),
    )
    if isinstance(reply, ErrorCode):
        reply = CodesReply(reply)
    if reply.code:
        return OffsetDeleteResponse(error_code=reply.code, topics=())
    codes = dict(zip(wanted, reply.codes, strict=True))
    return OffsetDeleteResponse(
        error_code=ErrorCode.NONE,
        topics=[
            OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetDeleteResponsePartition(
                        partition_index=partition.partition_index,
                        error_code=codes.get(
                            (TopicName(topic.name), partition.partition_index),
                            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                        ),
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def _exists(state: BrokerState, name: str, partition: int) -> bool:
    routed = state.router.by_name.get(name)
    return routed is not None and routed.replica(partition) is not None
