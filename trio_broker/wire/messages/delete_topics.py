"""DeleteTopics (API 20): versions 1 to 6, flexible from 4 on.

From version 6 on topics are named by name or by id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import Kind, array, int16, int32, string, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class DeleteTopicState(Struct):
    """One of the `topics` of `DeleteTopicsRequest`."""

    name: str | None = string(nullable_since=0, default=None)
    topic_id: UUID = uuid()


class DeleteTopicsRequest(Request, api_key=20, versions=(1, 6), flexible=4):
    """What a client asks with DeleteTopics."""

    topics: Sequence[DeleteTopicState] = array(DeleteTopicState, since=6, default=())
    topic_names: Sequence[str] = array(Kind.STRING, until=5, default=())
    timeout_ms: int = int32()


class DeletableTopicResult(Struct):
    """One of the `responses` of `DeleteTopicsResponse`."""

    name: str | None = string(nullable_since=6)
    topic_id: UUID = uuid(since=6, default=ZERO_TOPIC_ID)
    error_code: int = int16()
    error_message: str | None = string(since=5, nullable_since=5, default=None)


class DeleteTopicsResponse(Response, api_key=20, versions=(1, 6), flexible=4):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    responses: Sequence[DeletableTopicResult] = array(DeletableTopicResult)
