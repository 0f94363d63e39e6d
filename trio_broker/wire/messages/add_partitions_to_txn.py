"""AddPartitionsToTxn (API 24): versions 0 to 5, flexible from 3 on.

From version 4 on this is spoken between brokers only, with any number of transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class AddPartitionsToTxnTopic(Struct):
    """One of the `topics` of `AddPartitionsToTxnTransaction`."""

    name: str = string()
    partitions: Sequence[int] = array(Kind.INT32)


class AddPartitionsToTxnTransaction(Struct):
    """One of the `transactions` of `AddPartitionsToTxnRequest`."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    verify_only: bool = boolean(default=False)
    topics: Sequence[AddPartitionsToTxnTopic] = array(AddPartitionsToTxnTopic)


class AddPartitionsToTxnRequest(Request, api_key=24, versions=(0, 5), flexible=3):
    """What a client asks with AddPartitionsToTxn."""

    transactions: Sequence[AddPartitionsToTxnTransaction] = array(
        AddPartitionsToTxnTransaction, since=4, default=()
    )
    v3_and_below_transactional_id: str = string(until=3, default="")
    v3_and_below_producer_id: int = int64(until=3, default=0)
    v3_and_below_producer_epoch: int = int16(until=3, default=0)
    v3_and_below_topics: Sequence[AddPartitionsToTxnTopic] = array(
        AddPartitionsToTxnTopic, until=3, default=()
    )


class AddPartitionsToTxnPartitionResult(Struct):
    """One of the `results_by_partition` of `AddPartitionsToTxnTopicResult`."""

    partition_index: int = int32()
    partition_error_code: int = int16()


class AddPartitionsToTxnTopicResult(Struct):
    """One of the `topic_results` of `AddPartitionsToTxnResult`."""

    name: str = string()
    results_by_partition: Sequence[AddPartitionsToTxnPartitionResult] = array(
        AddPartitionsToTxnPartitionResult
    )


class AddPartitionsToTxnResult(Struct):
    """One of the `results_by_transaction` of `AddPartitionsToTxnResponse`."""

    transactional_id: str = string()
    topic_results: Sequence[AddPartitionsToTxnTopicResult] = array(AddPartitionsToTxnTopicResult)


class AddPartitionsToTxnResponse(Response, api_key=24, versions=(0, 5), flexible=3):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=4, default=0)
    results_by_transaction: Sequence[AddPartitionsToTxnResult] = array(
        AddPartitionsToTxnResult, since=4, default=()
    )
    results_by_topic_v3_and_below: Sequence[AddPartitionsToTxnTopicResult] = array(
        AddPartitionsToTxnTopicResult, until=3, default=()
    )
