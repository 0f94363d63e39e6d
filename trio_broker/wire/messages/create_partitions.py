"""CreatePartitions (API 37): versions 0 to 3, flexible from 2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class CreatePartitionsAssignment(Struct):
    """One of the `assignments` of `CreatePartitionsTopic`."""

    broker_ids: Sequence[int] = array(Kind.INT32)


class CreatePartitionsTopic(Struct):
    """One of the `topics` of `CreatePartitionsRequest`."""

    name: str = string()
    count: int = int32()
    assignments: Sequence[CreatePartitionsAssignment] | None = array(
        CreatePartitionsAssignment, nullable_since=0
    )


class CreatePartitionsRequest(Request, api_key=37, versions=(0, 3), flexible=2):
    """What a client asks with CreatePartitions."""

    topics: Sequence[CreatePartitionsTopic] = array(CreatePartitionsTopic)
    timeout_ms: int = int32()
    validate_only: bool = boolean()


class CreatePartitionsTopicResult(Struct):
    """One of the `results` of `CreatePartitionsResponse`."""

    name: str = string()
    error_code: int = int16()
    error_message: str | None = string(nullable_since=0, default=None)


class CreatePartitionsResponse(Response, api_key=37, versions=(0, 3), flexible=2):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[CreatePartitionsTopicResult] = array(CreatePartitionsTopicResult)
