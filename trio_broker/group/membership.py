"""Decides JoinGroup, SyncGroup, Heartbeat and LeaveGroup by Apache Kafka's rules.

After GroupMetadataManager (classicGroupJoin, classicGroupSync, classicGroupHeartbeat,
classicGroupLeave) with the limits of this broker. What happens to a group as a whole is in
`rebalance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import ClassicGroup, GroupState
from trio_broker.group.commands import (
    JoinGroup,
    JoinReply,
    LeaveReply,
    LeavingMember,
    SyncGroup,
    SyncReply,
)
from trio_broker.group.members import Member, member_size_bytes
from trio_broker.group.rebalance import Rebalances, TimerKey, TimerKind
from trio_broker.group.schemas import SCHEMA_STRING_BYTES_MAX, GroupMetadataKey
from trio_broker.group.turn import AssignmentWritten, StaticRejoinWritten
from trio_broker.names import TOPIC_NAME_LENGTH_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.config import GroupConfig
    from trio_broker.group.commands import Now
    from trio_broker.group.registry import Groups
    from trio_broker.group.timers import Timers
    from trio_broker.group.turn import Turn

#: A new member cannot send heartbeats before it is answered, so its client may be gone; after
#: this long it has to ask again (Kafka: NewMemberJoinTimeoutMs).
NEW_MEMBER_JOIN_TIMEOUT_MS = 5 * 60 * 1000
#: Longest group instance id: Kafka's clients hold it to the rules for topic names.
GROUP_INSTANCE_ID_LENGTH_MAX = TOPIC_NAME_LENGTH_MAX
#: So much of a client id goes into its member ids.
_CLIENT_ID_SHOWN_LENGTH_MAX = 200
#: What a member is told when the generation it belongs to could not be stored.
_TRANSLATED = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.LEADER_NOT_AVAILABLE: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.INVALID_FETCH_SIZE: ErrorCode.UNKNOWN_SERVER_ERROR,
}


def membership_code(append_code: ErrorCode) -> ErrorCode:
    """Translate why an append failed for members (GroupMetadataManager's own table)."""
    return _TRANSLATED.get(append_code, append_code)


class Membership:
    """Who is in which group.

    Args:
        config: limits and delays.
        groups: all of the coordinator.
        timers: all of the coordinator.
        rebalances: how groups get on.
    """

    def __init__(
        self,
        config: GroupConfig,
        groups: Groups,
        timers: Timers[TimerKey],
        rebalances: Rebalances,
    ) -> None:
        self._config = config
        self._groups = groups
        self._timers = timers
        self._rebalances = rebalances

    # --- JoinGroup ------------------------------------------------------------------------------
    def join(self, turn: Turn, token: object, request: JoinGroup) -> None:
        """Decide a JoinGroup request; it may wait."""
        group = self._groups.get(request.group_id)
        fault = self._join_fault(request, group)
        if fault is not ErrorCode.NONE:
            turn.answer(token, JoinReply(fault, request.member_id))
            return
        if group is None:
            group = self._groups.get_or_create(request.group_id)
        turn.touched.append(group)
        if not self._has_room(group, request):
            self._turn_away(turn, group, request)
            turn.answer(token, JoinReply(ErrorCode.GROUP_MAX_SIZE_REACHED))
        elif not group.can_take(request.protocol_type, request.protocols):
            code = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
            turn.answer(token, JoinReply(code, request.member_id))
        elif request.member_id:
            self._join_again(turn, group, token, request)
        else:
            self._join_new(turn, group, token, request)

    def _join_fault(self, request: JoinGroup, group: ClassicGroup | None) -> ErrorCode:
        """Look for what is wrong whatever state the group is in."""
        config = self._config
        instance_id = request.group_instance_id
        if not request.group_id or len(request.group_id.encode()) > SCHEMA_STRING_BYTES_MAX:
            return ErrorCode.INVALID_GROUP_ID
        if not (
            config.session_timeout_min_ms
            <= request.session_timeout_ms
            <= config.session_timeout_max_ms
        ):
            return ErrorCode.INVALID_SESSION_TIMEOUT
        if instance_id is not None and not 0 < len(instance_id) <= GROUP_INSTANCE_ID_LENGTH_MAX:
            return ErrorCode.INVALID_REQUEST
        texts = (request.client_id, request.client_host, request.protocol_type)
        names = (name for name, _ in request.protocols)
        if any(len(text.encode()) > SCHEMA_STRING_BYTES_MAX for text in (*texts, *names)):
            return ErrorCode.INVALID_REQUEST
        if group is None and request.member_id:
            return ErrorCode.UNKNOWN_MEMBER_ID
        size_bytes = member_size_bytes(request.client_id, instance_id, request.protocols)
        known = None if group is None else _member_meant(group, request)
        grown_bytes = size_bytes if known is None else size_bytes - known.metadata_bytes
        if (
            size_bytes > config.member_metadata_bytes_max
            or self._lacks_memory(grown_bytes)
            or (group is None and self._groups.is_full)
        ):
            return ErrorCode.POLICY_VIOLATION
        return ErrorCode.NONE

    def _lacks_memory(self, grown_bytes: int) -> bool:
        """Whether members may not take so much more; who takes no more goes on in any case."""
        total_bytes = self._groups.tally.total.size_bytes
        return grown_bytes > 0 and total_bytes + grown_bytes > self._config.membership_bytes_max

    def _has_room(self, group: ClassicGroup, request: JoinGroup) -> bool:
        """Whether the group is not too large for whoever joins.

        While members join, those that have joined count: so the last ones of a group that is
        larger than the limit (which was lowered) are kept out.
        """
        size_max = self._config.group_size_max
        member = _member_meant(group, request)
        if group.state is GroupState.PREPARING_REBALANCE:
            if (member is None or not member.has_joined) and group.joined_count >= size_max:
                return False
        elif member is None and len(group.members) >= size_max:
            return False
        needs_id = not request.member_id and request.group_instance_id is None
        is_pending_soon = needs_id and request.requires_member_id
        return not is_pending_soon or len(group.pending_members) < size_max

    def _turn_away(self, turn: Turn, group: ClassicGroup, request: JoinGroup) -> None:
        """Drop somebody there is no room for, if it was there at all."""
        member_id = request.member_id
        if group.check_member(member_id, request.group_instance_id) is ErrorCode.NONE:
            self._rebalances.drop_member(turn, group, group.members[member_id])
            self._rebalances.after_departure(turn, group, f"no room for {member_id!r}")
        elif member_id in group.pending_members:
            self._rebalances.drop_pending(group, member_id)
            self._rebalances.complete_join_if_all_have(turn, group)

    def _join_new(self, turn: Turn, group: ClassicGroup, token: object, request: JoinGroup) -> None:
        """Somebody without a member id joins."""
        instance_id = request.group_instance_id
        name = (
            request.client_id[:_CLIENT_ID_SHOWN_LENGTH_MAX] if instance_id is None else instance_id
        )
        member_id = f"{name}-{request.unique_text}"
        if instance_id is not None and instance_id in group.static_members:
            member = group.members[group.static_members[instance_id]]
            self._come_back(turn, group, member, member_id, token, request)
        elif instance_id is None and request.requires_member_id:
            group.pending_members[member_id] = None
            self._timers.set(
                TimerKey(TimerKind.SESSION, group.group_id, member_id),
                turn.now.clock_ms + request.session_timeout_ms,
            )
            turn.answer(token, JoinReply(ErrorCode.MEMBER_ID_REQUIRED, member_id))
        else:
            self._add(turn, group, member_id, token, request)

    def _join_again(
        self, turn: Turn, group: ClassicGroup, token: object, request: JoinGroup
    ) -> None:
        """Somebody with a member id joins: for the first time, or in a further generation."""
        member_id = request.member_id
        if member_id in group.pending_members and request.group_instance_id is None:
            self._add(turn, group, member_id, token, request)
            return
        code = group.check_member(member_id, request.group_instance_id)
        if code is not ErrorCode.NONE:
            turn.answer(token, JoinReply(code, member_id))
            return
        member = group.members[member_id]
        knows_the_same = member.protocols == request.protocols
        if group.state is GroupState.COMPLETING_REBALANCE and knows_the_same:
            # It may have missed the answer.
            turn.answer(token, self._rebalances.joined_reply(group, member_id))
            return
        # A leader may join again because of something nobody else sees, such as new partitions.
        is_leader = member_id == group.leader_id
        if group.state is GroupState.STABLE and knows_the_same and not is_leader:
            turn.answer(token, self._rebalances.joined_reply(group, member_id))
            return
        self._update(group, member, request)
        self._rebalances.park_join(turn, member, token)
        what = "joins again" if knows_the_same else "has new metadata"
        self._rebalances.start_or_go_on(
            turn, group, f"member {member_id!r} {what}{_given(request.reason)}"
        )

    def _add(
        self, turn: Turn, group: ClassicGroup, member_id: str, token: object, request: JoinGroup
    ) -> None:
        member = Member(
            member_id=member_id,
            group_instance_id=request.group_instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=_rebalance_timeout_ms(request),
            protocols=request.protocols,
            is_new=True,
        )
        if group.state is GroupState.PREPARING_REBALANCE and group.is_initial:
            group.had_newcomer = True
        group.add(member, request.protocol_type)
        self._rebalances.park_join(turn, member, token)
        self._timers.set(
            TimerKey(TimerKind.SESSION, group.group_id, member_id),
            turn.now.clock_ms + NEW_MEMBER_JOIN_TIMEOUT_MS,
        )
        self._rebalances.start_or_go_on(
            turn, group, f"member {member_id!r} is new{_given(request.reason)}"
        )

    def _update(self, group: ClassicGroup, member: Member, request: JoinGroup) -> None:
        group.update(
            member, request.protocols, request.session_timeout_ms, _rebalance_timeout_ms(request)
        )

    def _come_back(
        self,
        turn: Turn,
        group: ClassicGroup,
        member: Member,
        member_id: str,
        token: object,
        request: JoinGroup,
    ) -> None:
        """A static member was started again: it takes the place of its former self."""
        rebalances = self._rebalances
        old_leader_id = group.leader_id or ""
        if member.has_joined:
            fenced = JoinReply(ErrorCode.FENCED_INSTANCE_ID, member.member_id)
            rebalances.answer_join(turn, member, fenced)
        rebalances.answer_sync(turn, member, SyncReply(ErrorCode.FENCED_INSTANCE_ID))
        self._timers.cancel(TimerKey(TimerKind.SESSION, group.group_id, member.member_id))
        turn.note(group.group_id, f"static member {member.member_id!r} is now {member_id!r}")
        group.rename(
            member, member_id, client_id=request.client_id, client_host=request.client_host
        )
        member.is_new = False
        self._update(group, member, request)
        rebalances.park_join(turn, member, token)
        if group.state is GroupState.STABLE and group.choose_protocol() == group.protocol_name:
            # Its new id has to survive a restart before it is told, or it would be fenced then.
            group.find_subscribed()
            assignments = {m.member_id: m.assignment for m in group.members.values()}
            turn.write(GroupMetadataKey(group.group_id), group.to_store(assignments))
            turn.effects.append(
                StaticRejoinWritten(
                    group,
                    group.generation,
                    member,
                    token,
                    old_leader_id,
                    request.knows_skip_assignment,
                )
            )
            return
        # In CompletingRebalance the leader may already assign to the old id.
        rebalances.start_or_go_on(
            turn, group, f"static member {member_id!r} is back{_given(request.reason)}"
        )

    def static_rejoin_written(
        self, turn: Turn, effect: StaticRejoinWritten, code: ErrorCode
    ) -> None:
        """The new id of a static member is stored, or could not be."""
        group, generation, member, token, old_leader_id, knows_skip_assignment = effect
        if member.join_token is not token or group.state is not GroupState.STABLE:
            return  # a rebalance that began meanwhile answers it, or it was replaced again
        assert group.generation == generation, "a further generation would have answered it"
        self._rebalances.expect_heartbeat(turn, group, member)
        if code is not ErrorCode.NONE:
            self._rebalances.answer_join(turn, member, JoinReply(membership_code(code)))
            return
        reply = self._rebalances.joined_reply(group, member.member_id)
        if knows_skip_assignment:
            reply = reply._replace(skip_assignment=group.leader_id == member.member_id)
        else:
            # Told so, an old client does not take itself for the leader and does not assign.
            reply = reply._replace(leader_id=old_leader_id, members=())
        self._rebalances.answer_join(turn, member, reply)

    # --- SyncGroup ------------------------------------------------------------------------------
    def sync(self, turn: Turn, token: object, request: SyncGroup) -> None:
        """Decide a SyncGroup request; it may wait."""
        group = self._groups.get(request.group_id)
        code = self._sync_fault(request, group)
        if code is not ErrorCode.NONE or group is None:
            turn.answer(token, SyncReply(code))
            return
        member = group.members[request.member_id]
        if group.state is GroupState.STABLE:
            self._rebalances.note_sync(group, member)
            reply = SyncReply(code, group.protocol_type, group.protocol_name, member.assignment)
            turn.answer(token, reply)
            return
        if request.member_id != group.leader_id or group.assignment_under_way:
            self._rebalances.park_sync(turn, group, member, token)
            return
        assignments = {
            member_id: request.assignments.get(member_id, b"") for member_id in group.members
        }
        grown_bytes = sum(map(len, assignments.values())) - group.assignments_bytes
        if self._lacks_memory(grown_bytes):
            turn.answer(token, SyncReply(ErrorCode.POLICY_VIOLATION))
            return
        self._rebalances.park_sync(turn, group, member, token)
        group.assignment_under_way = True
        turn.write(GroupMetadataKey(group.group_id), group.to_store(assignments))
        turn.effects.append(AssignmentWritten(group, group.generation, assignments))

    def _sync_fault(self, request: SyncGroup, group: ClassicGroup | None) -> ErrorCode:
        if not request.group_id:
            return ErrorCode.INVALID_GROUP_ID
        if group is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        code = group.check_member(request.member_id, request.group_instance_id)
        if code is not ErrorCode.NONE:
            return code
        if request.generation != group.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if (
            request.protocol_type is not None
            and group.protocol_type is not None
            and request.protocol_type != group.protocol_type
        ) or (
            request.protocol_name is not None
            and group.protocol_name is not None
            and request.protocol_name != group.protocol_name
        ):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def assignment_written(self, turn: Turn, effect: AssignmentWritten, code: ErrorCode) -> None:
        """The leader's assignment is stored, or could not be."""
        group, generation, assignments = effect
        if group.state is not GroupState.COMPLETING_REBALANCE or group.generation != generation:
            return  # the next rebalance has begun, and has answered those who waited
        if code is ErrorCode.NONE:
            group.assign(assignments)
            group.assignment_under_way = False
            group.enter(GroupState.STABLE, turn.now.wall_ms)
            self._rebalances.answer_syncs(turn, group, code)
            return
        group.assign({})
        self._rebalances.answer_syncs(turn, group, membership_code(code))
        self._rebalances.start(turn, group, f"the assignment was not stored: {code.name}")

    # --- Heartbeat ------------------------------------------------------------------------------
    def heartbeat(
        self,
        group_id: str,
        generation: int,
        member_id: str,
        group_instance_id: str | None,
        now: Now,
    ) -> ErrorCode:
        """Decide a Heartbeat request: never more than a code, and a later deadline."""
        if not group_id:
            return ErrorCode.INVALID_GROUP_ID
        group = self._groups.get(group_id)
        if group is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        code = group.check_member(member_id, group_instance_id)
        if code is not ErrorCode.NONE:
            return code
        if generation != group.generation:
            return ErrorCode.ILLEGAL_GENERATION
        self.keep_alive(group, member_id, now)
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def keep_alive(self, group: ClassicGroup, member_id: str, now: Now) -> None:
        """A member has shown that it lives: push its deadline back, if it has one.

        It has none while a request of it waits, and a new member has a longer one.
        """
        key = TimerKey(TimerKind.SESSION, group.group_id, member_id)
        deadline_ms = now.clock_ms + group.members[member_id].session_timeout_ms
        current_ms = self._timers.deadline_ms(key)
        if current_ms is not None and current_ms < deadline_ms:
            self._timers.set(key, deadline_ms)

    # --- LeaveGroup -----------------------------------------------------------------------------
    def leave(
        self, turn: Turn, token: object, group_id: str, leaving: Sequence[LeavingMember]
    ) -> None:
        """Decide a LeaveGroup request."""
        if not group_id:
            turn.answer(token, LeaveReply(ErrorCode.INVALID_GROUP_ID))
            return
        group = self._groups.get(group_id)
        if group is None:
            codes = (ErrorCode.UNKNOWN_MEMBER_ID,) * len(leaving)
            turn.answer(token, LeaveReply(ErrorCode.NONE, codes))
            return
        turn.touched.append(group)
        member_count = len(group.members)
        codes = tuple(self._leave(turn, group, member) for member in leaving)
        left_count = member_count - len(group.members)
        if left_count:
            self._rebalances.after_departure(turn, group, f"{left_count} members left")
        elif ErrorCode.NONE in codes:
            self._rebalances.complete_join_if_all_have(turn, group)
        turn.answer_when_stored(
            token,
            LeaveReply(ErrorCode.NONE, codes),
            lambda code: LeaveReply(membership_code(code)),
        )

    def _leave(self, turn: Turn, group: ClassicGroup, leaving: LeavingMember) -> ErrorCode:
        member_id = leaving.member_id
        if not member_id:
            # An operator removes a static member of which only the instance id is known.
            member_id = group.static_members.get(leaving.group_instance_id or "", "")
            if not member_id:
                return ErrorCode.UNKNOWN_MEMBER_ID
        elif member_id in group.pending_members:
            self._rebalances.drop_pending(group, member_id)
            return ErrorCode.NONE
        else:
            code = group.check_member(member_id, leaving.group_instance_id)
            if code is not ErrorCode.NONE:
                return code
        turn.note(group.group_id, f"member {member_id!r} left{_given(leaving.reason)}")
        self._rebalances.drop_member(turn, group, group.members[member_id])
        return ErrorCode.NONE


def _member_meant(group: ClassicGroup, request: JoinGroup) -> Member | None:
    """Return the member that joins again, or that a static one takes the place of."""
    member_id = request.member_id
    if not member_id and request.group_instance_id is not None:
        member_id = group.static_members.get(request.group_instance_id, "")
    return group.members.get(member_id)


def _rebalance_timeout_ms(request: JoinGroup) -> int:
    """Return the timeout asked for; version 0 could not ask for one."""
    if request.rebalance_timeout_ms < 0:
        return request.session_timeout_ms
    return request.rebalance_timeout_ms


def _given(reason: str | None) -> str:
    return f" (its reason: {reason[:200]!r})" if reason else ""
