"""DescribeLogDirs (API 35): versions 1 to 5, flexible from 2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class DescribableLogDirTopic(Struct):
    """One of the `topics` of `DescribeLogDirsRequest`."""

    topic: str = string()
    partitions: Sequence[int] = array(Kind.INT32)


class DescribeLogDirsRequest(Request, api_key=35, versions=(1, 5), flexible=2):
    """What a client asks with DescribeLogDirs."""

    topics: Sequence[DescribableLogDirTopic] | None = array(
        DescribableLogDirTopic, nullable_since=0
    )


class DescribeLogDirsPartition(Struct):
    """One of the `partitions` of `DescribeLogDirsTopic`."""

    partition_index: int = int32()
    partition_size: int = int64()
    offset_lag: int = int64()
    is_future_key: bool = boolean()


class DescribeLogDirsTopic(Struct):
    """One of the `topics` of `DescribeLogDirsResult`."""

    name: str = string()
    partitions: Sequence[DescribeLogDirsPartition] = array(DescribeLogDirsPartition)


class DescribeLogDirsResult(Struct):
    """One of the `results` of `DescribeLogDirsResponse`."""

    error_code: int = int16()
    log_dir: str = string()
    topics: Sequence[DescribeLogDirsTopic] = array(DescribeLogDirsTopic)
    total_bytes: int = int64(since=4, default=-1)
    usable_bytes: int = int64(since=4, default=-1)
    is_cordoned: bool = boolean(since=5, default=False)


class DescribeLogDirsResponse(Response, api_key=35, versions=(1, 5), flexible=2):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=3, default=0)
    results: Sequence[DescribeLogDirsResult] = array(DescribeLogDirsResult)
