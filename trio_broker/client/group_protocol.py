"""The conversation of one member with the coordinator of its group (classic protocol).

Knows how to say things and what the answers mean; `group_consumer` decides when to say what. All
requests of a member share one connection, since the coordinator holds JoinGroup and SyncGroup back
until the others are there. Commits go over another one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from trio_broker.client.errors import request_error
from trio_broker.client.offsets import Membership, call_coordinator, check_group_code
from trio_broker.client.remedies import CONNECTION_FAILURES, Remedy, remedy_for
from trio_broker.client.types import TopicPartition
from trio_broker.errors import ErrorCode, RequestError
from trio_broker.group.assignors import ASSIGNORS, Assignor, GroupMember
from trio_broker.group.consumer_protocol import (
    CONSUMER_PROTOCOL_TYPE,
    AssignedPartition,
    Assignment,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from trio_broker.names import TopicName
from trio_broker.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from trio_broker.wire.messages.join_group import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
)
from trio_broker.wire.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
)
from trio_broker.wire.messages.sync_group import (
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_broker.client.cluster import Cluster, Retries
    from trio_broker.client.options import GroupOptions

logger = logging.getLogger("trio_broker.client")

NO_GENERATION = -1
#: How much longer than the rebalance timeout the answer to JoinGroup may take (as in Java).
_JOIN_EXTRA_SECONDS = 5.0


class MembershipLost(Exception):
    """The group has gone on without this member: its partitions belong to others."""


class RebalanceNeeded(Exception):
    """The group is about to begin another generation."""


@frozen
class Joined:
    """The answer to JoinGroup.

    Attributes:
        assignor: chosen by the coordinator.
        members: everybody, if this member leads; else nobody.
        is_leader: whether this member assigns.
    """

    assignor: Assignor
    members: Mapping[str, GroupMember]
    is_leader: bool


class GroupConversation:
    """See the module's text.

    Attributes:
        member_id: from the coordinator; empty before it gave one.
        generation: `NO_GENERATION` while this is no member of one.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topics: Iterable[str],
        options: GroupOptions,
        purpose: str,
    ) -> None:
        unknown = [name for name in options.assignors if name not in ASSIGNORS]
        if unknown:
            raise ValueError(f"there is no assignor {unknown[0]!r}, only {', '.join(ASSIGNORS)}")
        self.member_id = ""
        self.generation = NO_GENERATION
        self._cluster = cluster
        self._group = group
        self._topics = tuple(TopicName(topic) for topic in topics)
        self._options = options
        self._purpose = purpose
        self._assignors = [ASSIGNORS[name] for name in options.assignors]

    @property
    def is_cooperative(self) -> bool:
        """Whether members keep partitions while they join (KIP-429)."""
        return all(assignor.is_cooperative for assignor in self._assignors)

    @property
    def membership(self) -> Membership:
        """What commits are signed with."""
        return Membership(self.generation, self.member_id, self._options.instance_id)

    def forget(self) -> None:
        """Be a stranger to the group again."""
        self.member_id = ""
        self.generation = NO_GENERATION

    # ------------------------------------------------------------------------------------- messages

    async def join(self, owned: Iterable[TopicPartition]) -> Joined:
        """Ask to be part of the next generation, and wait until it begins.

        Raises:
            MembershipLost: the member id or its generation counts no more.
            RequestError: the group does not take us.

        Cancellation: unknown; join again, or leave.
        """
        options = self._options
        retries = self._cluster.retries(float("inf"))
        kept = tuple(AssignedPartition(TopicName(topic), index) for topic, index in owned)
        while True:
            request = JoinGroupRequest(
                group_id=self._group,
                session_timeout_ms=int(options.session_timeout_seconds * 1000),
                rebalance_timeout_ms=int(options.rebalance_timeout_seconds * 1000),
                member_id=self.member_id,
                group_instance_id=options.instance_id,
                protocol_type=CONSUMER_PROTOCOL_TYPE,
                protocols=[self._protocol(assignor, kept) for assignor in self._assignors],
            )
            try:
                answer = await call_coordinator(
                    self._cluster,
                    self._group,
                    request,
                    JoinGroupResponse,
                    purpose=self._purpose,
                    timeout_seconds=max(
                        options.rebalance_timeout_seconds + _JOIN_EXTRA_SECONDS,
                        self._cluster.options.request_timeout_seconds,
                    ),
                )
                if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
                    self.member_id = answer.member_id
                    continue
                self._check(answer.error_code)
            except (RequestError, *CONNECTION_FAILURES) as error:
                await self._again(retries, error)
                continue
            except RebalanceNeeded:
                await retries.sleep()
                continue
            self.member_id = answer.member_id
            self.generation = answer.generation_id
            return self._joined(answer)

    def _protocol(
        self, assignor: Assignor, owned: tuple[AssignedPartition, ...]
    ) -> JoinGroupRequestProtocol:
        subscription = Subscription(
            topics=self._topics,
            user_data=assignor.user_data(self.generation),
            owned=owned,
            generation=self.generation if owned else NO_GENERATION,
            rack=self._options.rack,
        )
        return JoinGroupRequestProtocol(
            name=assignor.name, metadata=encode_subscription(subscription)
        )

    def _joined(self, answer: JoinGroupResponse) -> Joined:
        assignor = ASSIGNORS.get(answer.protocol_name or "")
        if assignor is None:
            raise request_error(
                ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
                f"the group uses {answer.protocol_name!r}, which was not offered",
            )
        # A static member that comes back leads without assigning: the assignment stays (KIP-814).
        is_leader = answer.leader == self.member_id and not answer.skip_assignment
        members = {
            member.member_id: GroupMember(
                subscription=decode_subscription(bytes(member.metadata)),
                group_instance_id=member.group_instance_id,
            )
            for member in (answer.members if is_leader else ())
        }
        return Joined(assignor, members, is_leader)

    async def sync(
        self, joined: Joined, assigned: Mapping[str, list[AssignedPartition]]
    ) -> frozenset[TopicPartition]:
        """Tell the assignment if this member leads, and wait for its own.

        Raises:
            RebalanceNeeded: another generation is about to begin.
            MembershipLost: the member id or its generation counts no more.
            RequestError: the coordinator refuses.

        Cancellation: unknown; join again, or leave.
        """
        request = SyncGroupRequest(
            group_id=self._group,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self._options.instance_id,
            protocol_type=CONSUMER_PROTOCOL_TYPE,
            protocol_name=joined.assignor.name,
            assignments=[
                SyncGroupRequestAssignment(
                    member_id=member_id,
                    assignment=encode_assignment(Assignment(partitions=tuple(partitions))),
                )
                for member_id, partitions in assigned.items()
            ],
        )
        retries = self._cluster.retries(float("inf"))
        while True:
            try:
                answer = await call_coordinator(
                    self._cluster,
                    self._group,
                    request,
                    SyncGroupResponse,
                    purpose=self._purpose,
                    timeout_seconds=max(
                        self._options.rebalance_timeout_seconds + _JOIN_EXTRA_SECONDS,
                        self._cluster.options.request_timeout_seconds,
                    ),
                )
                self._check(answer.error_code)
            except (RequestError, *CONNECTION_FAILURES) as error:
                await self._again(retries, error)
                continue
            assignment = decode_assignment(bytes(answer.assignment))
            return frozenset(TopicPartition(*place) for place in assignment.partitions)

    async def heartbeat(self) -> None:
        """Say once that this member is alive.

        Raises:
            RebalanceNeeded: another generation is about to begin.
            MembershipLost: the member id or its generation counts no more.
            RequestError: with any other code.
            ConnectionLost, Unreachable, RequestTimedOut, OSError: no answer.
        """
        request = HeartbeatRequest(
            group_id=self._group,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self._options.instance_id,
        )
        answer = await call_coordinator(
            self._cluster, self._group, request, HeartbeatResponse, purpose=self._purpose
        )
        self._check(answer.error_code)

    async def leave(self, reason: str) -> None:
        """Leave the group, so that others need not wait for the session to time out.

        A static member stays: that is what makes its restarts cheap (KIP-345). Failing to say
        good-bye is no error.
        """
        member_id, instance_id = self.member_id, self._options.instance_id
        self.forget()
        if not member_id or instance_id is not None:
            return
        request = LeaveGroupRequest(
            group_id=self._group,
            member_id=member_id,
            members=[MemberIdentity(member_id=member_id, reason=reason)],
        )
        try:
            answer = await call_coordinator(
                self._cluster, self._group, request, LeaveGroupResponse, purpose=self._purpose
            )
            check_group_code(self._cluster, self._group, answer.error_code)
        except (RequestError, *CONNECTION_FAILURES) as error:
            logger.info("leaving group %s: %s", self._group, error)

    # --------------------------------------------------------------------------------------- errors

    def _check(self, code: int) -> None:
        """Raise what an error code means for a member."""
        if code == ErrorCode.UNKNOWN_MEMBER_ID:
            self.forget()
            raise MembershipLost
        if code == ErrorCode.ILLEGAL_GENERATION:
            self.generation = NO_GENERATION
            raise MembershipLost  # the others went on without us
        if code == ErrorCode.REBALANCE_IN_PROGRESS:
            raise RebalanceNeeded
        check_group_code(self._cluster, self._group, code)

    async def _again(self, retries: Retries, error: Exception) -> None:
        """Pause before another attempt.

        Raises:
            RequestError: the error, if another attempt makes no sense.
        """
        if isinstance(error, RequestError) and Remedy.RETRY not in remedy_for(error.code):
            raise error
        logger.info("group %s: %s", self._group, error)
        await retries.again(error)
