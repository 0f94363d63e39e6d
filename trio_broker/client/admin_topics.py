"""Admin calls about topics, their records, and the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from trio_broker.client.admin_results import (
    ClusterDescription,
    CreatedTopic,
    LogDirDescription,
    TopicDescription,
)
from trio_broker.client.cluster import ADMIN
from trio_broker.client.errors import request_error
from trio_broker.client.metadata import NOBODY, Node, topic_view
from trio_broker.client.offsets import by_topic, list_offsets, most_final
from trio_broker.client.remedies import CONNECTION_FAILURES
from trio_broker.client.types import IsolationLevel, ListedOffset, TopicPartition
from trio_broker.errors import ErrorCode, RequestError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.message import Request, Response
from trio_broker.wire.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from trio_broker.wire.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from trio_broker.wire.messages.delete_topics import (
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from trio_broker.wire.messages.describe_cluster import (
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from trio_broker.wire.messages.describe_log_dirs import (
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_broker.client.cluster import Cluster

R = TypeVar("R", bound=Response)

_BROKER_DEFAULT = -1
#: To these codes an admin call is final, though others retry them.
_FINAL = frozenset({ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID})


class AdminBase:
    """What the parts of the admin client have in common."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def _timeout_ms(self) -> int:
        """How long a broker may take for an admin request, in milliseconds."""
        return int(self._cluster.options.request_timeout_seconds * 1000)

    async def _call_controller(self, request: Request, response_type: type[R]) -> R:
        """Send a request once to the controller, or to anybody if nobody is said to be it."""
        controller = self._cluster.view.controller
        if controller == NOBODY:
            return await self._cluster.call_any(ADMIN, request, response_type)
        return await self._cluster.call(controller, ADMIN, request, response_type)


class TopicAdmin(AdminBase):
    """Topics, records, brokers."""

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replication_factor: int | None = None,
        assignment: Sequence[Sequence[int]] = (),
        configs: Mapping[str, str] | None = None,
        validate_only: bool = False,
    ) -> CreatedTopic:
        """Create a topic; when this returns, every partition of it has a leader.

        Args:
            name: 1 to 249 of ``[a-zA-Z0-9._-]``.
            partitions: how many; None: as the broker is configured.
            replication_factor: how many brokers have each; None: as the broker is configured.
            assignment: instead of both, for each partition the brokers that have it.
            configs: such as ``{"retention.ms": "3600000"}``.
            validate_only: only say whether it would work.

        Raises:
            RequestError: TOPIC_ALREADY_EXISTS, INVALID_CONFIG and so on.
            RequestTimedOut: the time is up; the topic may or may not exist.

        Cancellation: unknown; the topic may or may not exist.
        """
        topic = CreatableTopic(
            name=name,
            num_partitions=_BROKER_DEFAULT if partitions is None else partitions,
            replication_factor=_BROKER_DEFAULT
            if replication_factor is None
            else replication_factor,
            assignments=[
                CreatableReplicaAssignment(partition_index=index, broker_ids=broker_ids)
                for index, broker_ids in enumerate(assignment)
            ],
            configs=[
                CreatableTopicConfig(name=key, value=value)
                for key, value in (configs or {}).items()
            ],
        )
        request = CreateTopicsRequest(
            topics=[topic], timeout_ms=self._timeout_ms, validate_only=validate_only
        )

        async def create() -> CreatedTopic:
            answer = await self._call_controller(request, CreateTopicsResponse)
            [result] = answer.topics
            if result.error_code:
                raise request_error(result.error_code, result.error_message or f"topic {name!r}")
            return CreatedTopic(
                name=name,
                topic_id=result.topic_id,
                partition_count=result.num_partitions,
                replication_factor=result.replication_factor,
                configs={config.name: config.value for config in result.configs or ()},
            )

        created = await self._cluster.retrying(create, final=_FINAL)
        if not validate_only:
            await self._wait_for_leaders(name, created)
        return created

    async def _wait_for_leaders(self, name: str, created: CreatedTopic) -> None:
        """Wait until brokers tell of a new topic: on a cluster they learn of it one by one."""

        async def look() -> None:
            description = await self.describe_topic(name)
            leaderless = [p.index for p in description.partitions.values() if p.leader == NOBODY]
            if leaderless or len(description.partitions) < created.partition_count:
                raise request_error(ErrorCode.LEADER_NOT_AVAILABLE, f"topic {name!r}")

        await self._cluster.retrying(look)

    async def list_topics(self, *, include_internal: bool = False) -> list[TopicDescription]:
        """Return all topics, by name.

        Args:
            include_internal: also those in which brokers keep their own records.

        Raises:
            Unreachable: no broker answers.
        """
        answer = await self._cluster.ask_metadata(None)
        topics = [topic_view(topic) for topic in answer.topics if not topic.error_code]
        return sorted(
            (topic for topic in topics if include_internal or not topic.is_internal),
            key=lambda topic: topic.name,
        )

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return one topic with its partitions, as a broker sees it now.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION if there is none.
            Unreachable: no broker answers.
        """
        answer = await self._cluster.ask_metadata([name])
        [topic] = answer.topics
        if topic.error_code and topic.error_code != ErrorCode.LEADER_NOT_AVAILABLE:
            raise request_error(topic.error_code, f"topic {name!r}")
        return topic_view(topic)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic with everything in it.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION if there is none.
            RequestTimedOut: the time is up; the topic may or may not exist.

        Cancellation: unknown; the topic may or may not exist.
        """
        request = DeleteTopicsRequest(
            topics=[DeleteTopicState(name=name, topic_id=ZERO_TOPIC_ID)],
            topic_names=[name],
            timeout_ms=self._timeout_ms,
        )

        async def delete() -> None:
            answer = await self._call_controller(request, DeleteTopicsResponse)
            [result] = answer.responses
            if result.error_code:
                raise request_error(result.error_code, result.error_message or f"topic {name!r}")

        await self._cluster.retrying(delete, final=_FINAL)
        self._cluster.request_refresh()

    async def add_partitions(
        self,
        name: str,
        total_count: int,
        *,
        assignment: Sequence[Sequence[int]] | None = None,
        validate_only: bool = False,
    ) -> None:
        """Give a topic more partitions. Keys may go to other partitions from then on.

        Args:
            name: of the topic.
            total_count: how many it has afterwards.
            assignment: for each new partition the brokers that have it; None: the cluster decides.
            validate_only: only say whether it would work.

        Raises:
            RequestError: INVALID_PARTITIONS if it has as many already.
            RequestTimedOut: the time is up; they may or may not exist.

        Cancellation: unknown; the partitions may or may not exist.
        """
        wanted: list[CreatePartitionsAssignment] | None = None
        if assignment is not None:
            wanted = [CreatePartitionsAssignment(broker_ids=ids) for ids in assignment]
        request = CreatePartitionsRequest(
            topics=[CreatePartitionsTopic(name=name, count=total_count, assignments=wanted)],
            timeout_ms=self._timeout_ms,
            validate_only=validate_only,
        )

        async def create() -> None:
            answer = await self._call_controller(request, CreatePartitionsResponse)
            [result] = answer.results
            if result.error_code:
                raise request_error(result.error_code, result.error_message or f"topic {name!r}")

        await self._cluster.retrying(create, final=_FINAL)
        if not validate_only:
            count = CreatedTopic(name, ZERO_TOPIC_ID, total_count, _BROKER_DEFAULT, {})
            await self._wait_for_leaders(name, count)
            self._cluster.request_refresh()

    async def delete_records(
        self, before: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Delete the beginning of logs.

        Args:
            before: for each partition the first offset that is kept; -1: the high watermark.

        Returns:
            The first offset that each partition has now.

        Raises:
            RequestError: OFFSET_OUT_OF_RANGE beyond the high watermark, POLICY_VIOLATION for a
                compacted topic, and so on. Of other partitions records may have been deleted.
            RequestTimedOut: the time is up; records may or may not have been deleted.

        Cancellation: unknown; doing it again does no harm.
        """
        done: dict[TopicPartition, int] = {}
        for topic in by_topic(before):
            await self._cluster.topic(topic)

        async def delete_those_left() -> None:
            by_leader: dict[int, list[TopicPartition]] = {}
            for place in before.keys() - done.keys():
                by_leader.setdefault(self._cluster.view.leader(*place), []).append(place)
            failures: list[Exception] = []
            for leader, places in sorted(by_leader.items()):
                if leader == NOBODY:
                    failures.append(request_error(ErrorCode.LEADER_NOT_AVAILABLE, f"{places[0]}"))
                    continue
                request = _delete_records_request(before, sorted(places), self._timeout_ms)
                try:
                    answer = await self._cluster.call(leader, ADMIN, request, DeleteRecordsResponse)
                except CONNECTION_FAILURES as error:
                    failures.append(error)
                    continue
                failures += _take_deleted(answer, done)
            if failures:
                raise most_final(failures)

        await self._cluster.retrying(delete_those_left)
        return done

    async def list_offsets(
        self,
        wanted: Mapping[TopicPartition, int],
        *,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[TopicPartition, ListedOffset]:
        """Return the ends of logs, or the first record of a time or later.

        Args:
            wanted: for each partition a timestamp in milliseconds or an `OffsetSpec`.
            isolation: whether LATEST is the end of what is committed.

        Raises:
            RequestError: there is no such partition.
            RequestTimedOut: the time is up.
        """
        return await list_offsets(self._cluster, wanted, isolation=isolation)

    async def describe_cluster(self) -> ClusterDescription:
        """Return the brokers that are there now.

        Raises:
            RequestError: the broker refuses.
            RequestTimedOut: nobody answers.
        """
        request = DescribeClusterRequest(include_cluster_authorized_operations=False)

        async def describe() -> ClusterDescription:
            answer = await self._cluster.call_any(ADMIN, request, DescribeClusterResponse)
            if answer.error_code:
                raise request_error(answer.error_code, answer.error_message)
            return ClusterDescription(
                cluster_id=answer.cluster_id,
                controller=answer.controller_id,
                nodes={
                    node.broker_id: Node(node.broker_id, node.host, node.port, node.rack)
                    for node in answer.brokers
                },
            )

        return await self._cluster.retrying(describe)

    async def describe_log_dirs(self, node_id: int) -> list[LogDirDescription]:
        """Return the directories of a broker, with the size of everything in them.

        Raises:
            RequestError: the broker refuses.
            RequestTimedOut: it does not answer.
        """
        request = DescribeLogDirsRequest(topics=None)

        async def describe() -> list[LogDirDescription]:
            answer = await self._cluster.call(node_id, ADMIN, request, DescribeLogDirsResponse)
            if answer.error_code:
                raise request_error(answer.error_code, f"log dirs of broker {node_id}")
            return [
                LogDirDescription(
                    path=result.log_dir,
                    error_code=result.error_code,
                    total_bytes=result.total_bytes,
                    usable_bytes=result.usable_bytes,
                    partition_bytes={
                        TopicPartition(topic.name, partition.partition_index): (
                            partition.partition_size
                        )
                        for topic in result.topics
                        for partition in topic.partitions
                        if not partition.is_future_key
                    },
                )
                for result in answer.results
            ]

        return await self._cluster.retrying(describe)


def _delete_records_request(
    before: Mapping[TopicPartition, int], places: Sequence[TopicPartition], timeout_ms: int
) -> DeleteRecordsRequest:
    topics = []
    for topic, indexes in by_topic(places).items():
        partitions = [
            DeleteRecordsPartition(
                partition_index=index, offset=before[TopicPartition(topic, index)]
            )
            for index in indexes
        ]
        topics.append(DeleteRecordsTopic(name=topic, partitions=partitions))
    return DeleteRecordsRequest(topics=topics, timeout_ms=timeout_ms)


def _take_deleted(
    answer: DeleteRecordsResponse, done: dict[TopicPartition, int]
) -> list[RequestError]:
    """Add what was done; return what was not."""
    failures = []
    for topic in answer.topics:
        for partition in topic.partitions:
            place = TopicPartition(topic.name, partition.partition_index)
            if partition.error_code:
                failures.append(request_error(partition.error_code, f"records of {place}"))
            else:
                done[place] = partition.low_watermark
    return failures
