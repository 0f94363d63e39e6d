"""DescribeTransactions (API 65): version 0, all flexible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class DescribeTransactionsRequest(Request, api_key=65, versions=(0, 0), flexible=0):
    """What a client asks with DescribeTransactions."""

    transactional_ids: Sequence[str] = array(Kind.STRING)


class TopicData(Struct):
    """One of the `topics` of `TransactionState`."""

    topic: str = string()
    partitions: Sequence[int] = array(Kind.INT32)


class TransactionState(Struct):
    """One of the `transaction_states` of `DescribeTransactionsResponse`."""

    error_code: int = int16()
    transactional_id: str = string()
    transaction_state: str = string()
    transaction_timeout_ms: int = int32()
    transaction_start_time_ms: int = int64()
    producer_id: int = int64()
    producer_epoch: int = int16()
    topics: Sequence[TopicData] = array(TopicData)


class DescribeTransactionsResponse(Response, api_key=65, versions=(0, 0), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    transaction_states: Sequence[TransactionState] = array(TransactionState)
