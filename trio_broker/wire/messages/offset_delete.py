"""OffsetDelete (API 47): version 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.api import NEVER_FLEXIBLE
from trio_broker.wire.fields import array, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class OffsetDeleteRequestPartition(Struct):
    """One of the `partitions` of `OffsetDeleteRequestTopic`."""

    partition_index: int = int32()


class OffsetDeleteRequestTopic(Struct):
    """One of the `topics` of `OffsetDeleteRequest`."""

    name: str = string()
    partitions: Sequence[OffsetDeleteRequestPartition] = array(OffsetDeleteRequestPartition)


class OffsetDeleteRequest(Request, api_key=47, versions=(0, 0), flexible=NEVER_FLEXIBLE):
    """What a client asks with OffsetDelete."""

    group_id: str = string()
    topics: Sequence[OffsetDeleteRequestTopic] = array(OffsetDeleteRequestTopic)


class OffsetDeleteResponsePartition(Struct):
    """One of the `partitions` of `OffsetDeleteResponseTopic`."""

    partition_index: int = int32()
    error_code: int = int16()


class OffsetDeleteResponseTopic(Struct):
    """One of the `topics` of `OffsetDeleteResponse`."""

    name: str = string()
    partitions: Sequence[OffsetDeleteResponsePartition] = array(OffsetDeleteResponsePartition)


class OffsetDeleteResponse(Response, api_key=47, versions=(0, 0), flexible=NEVER_FLEXIBLE):
    """What it is answered."""

    error_code: int = int16()
    throttle_time_ms: int = int32(default=0)
    topics: Sequence[OffsetDeleteResponseTopic] = array(OffsetDeleteResponseTopic)
