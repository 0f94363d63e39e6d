"""DescribeLogDirs (key 35), versions 1 to 5: log dirs, their room, and the sizes of their logs.

Room is what the disk guard last saw, at most a second ago, so that a disk that hangs holds up
nobody. A log dir that has failed is listed with KAFKA_STORAGE_ERROR and without partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Mapping

    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

_UNKNOWN_BYTES = -1


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeLogDirsRequest
) -> DescribeLogDirsResponse:
    """Describe every log dir, with all partitions or those asked for."""
    del session, version
    await trio.lowlevel.checkpoint()
    wanted: dict[str, set[int]] | None = None
    if request.topics is not None:
        wanted = {}
        for topic in request.topics:
            wanted.setdefault(topic.topic, set()).update(topic.partitions)
    results = await state.large_answers.collect(_describe_all(state, wanted))
    return DescribeLogDirsResponse(results=results)


def _describe_all(
    state: BrokerState, wanted: Mapping[str, Container[int]] | None
) -> Generator[None, None, list[DescribeLogDirsResult]]:
    results = []
    for log_dir in state.log_dirs:
        results.append((yield from _describe(log_dir, wanted)))
    return results


def _describe(
    log_dir: LogDir, wanted: Mapping[str, Container[int]] | None
) -> Generator[None, None, DescribeLogDirsResult]:
    if log_dir.is_failed:
        return DescribeLogDirsResult(
            error_code=ErrorCode.KAFKA_STORAGE_ERROR, log_dir=log_dir.directory.path, topics=()
        )
    topics: dict[str, list[DescribeLogDirsPartition]] = {}
    for shard in log_dir.shards:
        for replica in list(shard.replicas.values()):
            yield
            name = replica.topic.name
            if not replica.has_log:
                continue
            if wanted is not None and replica.partition not in wanted.get(name, ()):
                continue
            topics.setdefault(name, []).append(
                DescribeLogDirsPartition(
                    partition_index=replica.partition,
                    partition_size=replica.log.size_bytes,
                    offset_lag=0,
                    is_future_key=False,
                )
            )
    space = log_dir.health.space
    usable_bytes = _UNKNOWN_BYTES if space is None else space.free_bytes
    if log_dir.refusal is not None:
        # KIP-827 asks for what is usable, and no room is while produce is refused. It is the only
        # place in Kafka's protocol where an operator could see that.
        usable_bytes = 0
    return DescribeLogDirsResult(
        error_code=ErrorCode.NONE,
        log_dir=log_dir.directory.path,
        topics=[
            DescribeLogDirsTopic(
                name=name, partitions=sorted(partitions, key=lambda found: found.partition_index)
            )
            for name, partitions in sorted(topics.items())
        ],
        total_bytes=_UNKNOWN_BYTES if space is None else space.total_bytes,
        usable_bytes=usable_bytes,
    )
