"""Admin calls about groups and the offsets they have committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.client.admin_results import GroupDescription, GroupListing, MemberDescription
from trio_broker.client.admin_topics import AdminBase
from trio_broker.client.cluster import ADMIN
from trio_broker.client.errors import request_error
from trio_broker.client.offsets import (
    by_topic,
    call_coordinator,
    check_group_code,
    commit_offsets,
    fetch_committed,
)
from trio_broker.client.types import CommittedOffset, TopicPartition
from trio_broker.errors import CorruptRecords, ErrorCode
from trio_broker.group.consumer_protocol import CONSUMER_PROTOCOL_TYPE, decode_assignment
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from trio_broker.wire.messages.describe_groups import (
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from trio_broker.wire.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from trio_broker.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DEAD = "Dead"


class GroupAdmin(AdminBase):
    """Groups."""

    async def list_groups(self, *, states: Iterable[str] = ()) -> list[GroupListing]:
        """Return the groups of all brokers, by name.

        Args:
            states: only groups in one of these, such as "Stable"; none: all groups.

        Raises:
            RequestError: a broker refuses.
            RequestTimedOut: one does not answer.
        """
        request = ListGroupsRequest(states_filter=list(states))

        async def list_them() -> dict[str, GroupListing]:
            found: dict[str, GroupListing] = {}
            for node_id in sorted(self._cluster.view.nodes):
                answer = await self._cluster.call(node_id, ADMIN, request, ListGroupsResponse)
                if answer.error_code:
                    raise request_error(answer.error_code, f"groups of broker {node_id}")
                for group in answer.groups:
                    found[group.group_id] = GroupListing(
                        group.group_id, group.protocol_type, group.group_state, group.group_type
                    )
            return found

        found = await self._cluster.retrying(list_them)
        return [found[group_id] for group_id in sorted(found)]

    async def describe_group(self, group: str) -> GroupDescription:
        """Return a group with its members and what each of them reads.

        Raises:
            RequestError: GROUP_ID_NOT_FOUND if there is none.
            RequestTimedOut: its coordinator does not answer.
        """
        request = DescribeGroupsRequest(groups=[group])

        async def describe() -> GroupDescription:
            answer = await call_coordinator(
                self._cluster, group, request, DescribeGroupsResponse, purpose=ADMIN
            )
            [described] = answer.groups
            check_group_code(self._cluster, group, described.error_code)
            # Before version 6 a group that does not exist was one that is dead.
            if described.group_state == _DEAD and not described.members:
                raise request_error(ErrorCode.GROUP_ID_NOT_FOUND, f"group {group!r}")
            is_consumer = described.protocol_type == CONSUMER_PROTOCOL_TYPE
            return GroupDescription(
                group_id=group,
                state=described.group_state,
                protocol_type=described.protocol_type,
                assignor=described.protocol_data,
                members=tuple(_member(member, is_consumer) for member in described.members),
                coordinator=await self._cluster.coordinator(group),
            )

        return await self._cluster.retrying(describe)

    async def delete_group(self, group: str) -> None:
        """Delete a group without members, with the offsets it has committed.

        Raises:
            RequestError: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND.
            RequestTimedOut: its coordinator does not answer; it may or may not exist.

        Cancellation: unknown; the group may or may not exist.
        """
        request = DeleteGroupsRequest(groups_names=[group])

        async def delete() -> None:
            answer = await call_coordinator(
                self._cluster, group, request, DeleteGroupsResponse, purpose=ADMIN
            )
            [result] = answer.results
            check_group_code(self._cluster, group, result.error_code)

        await self._cluster.retrying(delete)

    async def group_offsets(
        self, group: str, partitions: Iterable[tuple[str, int]] | None = None
    ) -> dict[TopicPartition, CommittedOffset]:
        """Return what a group has committed; nothing for a group that does not exist.

        Args:
            group: its id.
            partitions: which; None: all.

        Raises:
            RequestError: the coordinator refuses.
            RequestTimedOut: it does not answer.
        """
        return await fetch_committed(self._cluster, group, partitions)

    async def alter_group_offsets(
        self, group: str, offsets: Mapping[TopicPartition, int | CommittedOffset]
    ) -> None:
        """Commit offsets for a group that has no members at the moment.

        Raises:
            RequestError: UNKNOWN_MEMBER_ID if it has members.
            RequestTimedOut: its coordinator does not answer.

        Cancellation: unknown whether they were committed; doing it again does no harm.
        """
        await commit_offsets(
            self._cluster,
            group,
            {
                TopicPartition(*place): CommittedOffset(offset)
                if isinstance(offset, int)
                else offset
                for place, offset in offsets.items()
            },
        )

    async def delete_group_offsets(self, group: str, partitions: Iterable[tuple[str, int]]) -> None:
        """Delete what a group has committed for partitions of topics that it does not read now.

        Raises:
            RequestError: GROUP_SUBSCRIBED_TO_TOPIC, GROUP_ID_NOT_FOUND and so on.
            RequestTimedOut: its coordinator does not answer.

        Cancellation: unknown whether they were deleted; doing it again does no harm.
        """
        request = OffsetDeleteRequest(
            group_id=group,
            topics=[
                OffsetDeleteRequestTopic(
                    name=name,
                    partitions=[OffsetDeleteRequestPartition(partition_index=i) for i in indexes],
                )
                for name, indexes in by_topic(partitions).items()
            ],
        )

        async def delete() -> None:
            answer = await call_coordinator(
                self._cluster, group, request, OffsetDeleteResponse, purpose=ADMIN
            )
            check_group_code(self._cluster, group, answer.error_code)
            for topic in answer.topics:
                for partition in topic.partitions:
                    check_group_code(
                        self._cluster,
                        group,
                        partition.error_code,
                        f"offset of {topic.name}-{partition.partition_index}",
                    )

        await self._cluster.retrying(delete, final={ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})


def _member(member: DescribedGroupMember, is_consumer: bool) -> MemberDescription:  # noqa: FBT001
    partitions: tuple[TopicPartition, ...] = ()
    if is_consumer:
        try:
            assignment = decode_assignment(bytes(member.member_assignment))
        except CorruptRecords:
            assignment = None  # of a client that speaks something else under this name
        if assignment is not None:
            partitions = tuple(TopicPartition(*place) for place in assignment.partitions)
    return MemberDescription(
        member_id=member.member_id,
        instance_id=member.group_instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        partitions=partitions,
    )
