"""WriteTxnMarkers (API 27): versions 1 to 2, flexible from 1 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int8, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class WritableTxnMarkerTopic(Struct):
    """One of the `topics` of `WritableTxnMarker`."""

    name: str = string()
    partition_indexes: Sequence[int] = array(Kind.INT32)


class WritableTxnMarker(Struct):
    """One of the `markers` of `WriteTxnMarkersRequest`."""

    producer_id: int = int64()
    producer_epoch: int = int16()
    transaction_result: bool = boolean()
    topics: Sequence[WritableTxnMarkerTopic] = array(WritableTxnMarkerTopic)
    coordinator_epoch: int = int32()
    transaction_version: int = int8(since=2, default=0)


class WriteTxnMarkersRequest(Request, api_key=27, versions=(1, 2), flexible=1):
    """What a client asks with WriteTxnMarkers."""

    markers: Sequence[WritableTxnMarker] = array(WritableTxnMarker)


class WritableTxnMarkerPartitionResult(Struct):
    """One of the `partitions` of `WritableTxnMarkerTopicResult`."""

    partition_index: int = int32()
    error_code: int = int16()


class WritableTxnMarkerTopicResult(Struct):
    """One of the `topics` of `WritableTxnMarkerResult`."""

    name: str = string()
    partitions: Sequence[WritableTxnMarkerPartitionResult] = array(WritableTxnMarkerPartitionResult)


class WritableTxnMarkerResult(Struct):
    """One of the `markers` of `WriteTxnMarkersResponse`."""

    producer_id: int = int64()
    topics: Sequence[WritableTxnMarkerTopicResult] = array(WritableTxnMarkerTopicResult)


class WriteTxnMarkersResponse(Response, api_key=27, versions=(1, 2), flexible=1):
    """What it is answered."""

    markers: Sequence[WritableTxnMarkerResult] = array(WritableTxnMarkerResult)
