"""How a group gets from one generation to the next.

After Apache Kafka's GroupMetadataManager (prepareRebalance, completeClassicGroupJoin,
expirePendingSync). `membership` decides which request begins a rebalance and calls this.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import ClassicGroup, GroupState
from trio_broker.group.commands import NO_MEMBER_ID, JoinReply, SyncReply
from trio_broker.group.schemas import GroupMetadataKey

if TYPE_CHECKING:
    from trio_broker.config import GroupConfig
    from trio_broker.group.members import Member
    from trio_broker.group.timers import Timers
    from trio_broker.group.turn import Turn

#: Where nobody joined in time but static members remain, wait at least this long for them again.
_POSTPONED_JOIN_MS_MIN = 1000


class TimerKind(IntEnum):
    """What a deadline is about."""

    JOIN = auto()  # of a group: members that have not joined by then are dropped
    SYNC = auto()  # of a group: members that have not sent SyncGroup by then are dropped
    SESSION = auto()  # of a member: it has been silent for too long


class TimerKey(NamedTuple):
    """Names one deadline."""

    kind: TimerKind
    group_id: str
    member_id: str = NO_MEMBER_ID


class Rebalances:
    """The steps from one generation to the next, for all groups of a coordinator.

    Args:
        config: delays.
        timers: shared by all of the coordinator.
    """

    def __init__(self, config: GroupConfig, timers: Timers[TimerKey]) -> None:
        self._config = config
        self._timers = timers

    # --- steps ----------------------------------------------------------------------------------
    def start_or_go_on(self, turn: Turn, group: ClassicGroup, reason: str) -> None:
        """Begin a rebalance; if one goes on, see whether it was this that it waited for."""
        if group.state is GroupState.PREPARING_REBALANCE:
            self.complete_join_if_all_have(turn, group)
        else:
            self.start(turn, group, reason)

    def start(self, turn: Turn, group: ClassicGroup, reason: str) -> None:
        """Call all members to join again."""
        if group.state is GroupState.COMPLETING_REBALANCE:
            group.assign({})
            self.answer_syncs(turn, group, ErrorCode.REBALANCE_IN_PROGRESS)
        self.forget_syncs(group)
        group.assignment_under_way = False
        group.is_initial = group.is_empty
        group.enter(GroupState.PREPARING_REBALANCE, turn.now.wall_ms)
        turn.note(group.group_id, f"rebalance after generation {group.generation}: {reason}")
        if group.is_initial:
            self._wait_for_first_members(turn, group)
        elif group.has_all_joined:
            self.complete_join(turn, group)
        else:
            self._set_timer(turn, TimerKind.JOIN, group, group.rebalance_timeout_ms)

    def complete_join_if_all_have(self, turn: Turn, group: ClassicGroup) -> None:
        """Begin the next generation if nobody is missing; the first one has its own delay."""
        if (
            group.state is GroupState.PREPARING_REBALANCE
            and not group.is_initial
            and group.has_all_joined
        ):
            self.complete_join(turn, group)

    def complete_join(self, turn: Turn, group: ClassicGroup) -> None:
        """Begin the next generation with the members that have joined, and static ones."""
        self._cancel_timer(TimerKind.JOIN, group)
        late = [m for m in group.members.values() if not m.has_joined and not m.is_static]
        for member in late:
            turn.note(group.group_id, f"member {member.member_id!r} did not join in time")
            self.drop_member(turn, group, member)
        if group.members and not group.elect_leader():
            delay_ms = max(group.rebalance_timeout_ms, _POSTPONED_JOIN_MS_MIN)
            self._set_timer(turn, TimerKind.JOIN, group, delay_ms)
            return
        group.begin_generation(turn.now.wall_ms)
        if group.is_empty:
            turn.note(group.group_id, f"empty in generation {group.generation}")
            turn.write(GroupMetadataKey(group.group_id), group.to_store({}))
            return
        turn.note(group.group_id, f"generation {group.generation} has {len(group.members)} members")
        for member in group.members.values():
            member.is_new = False
            group.unsynced_members[member.member_id] = None
            self.expect_heartbeat(turn, group, member)
            if member.has_joined:
                self.answer_join(turn, member, self.joined_reply(group, member.member_id))
        self._set_timer(turn, TimerKind.SYNC, group, group.rebalance_timeout_ms)

    def joined_reply(self, group: ClassicGroup, member_id: str) -> JoinReply:
        """Tell a member what the present generation is, and the leader who is in it."""
        return JoinReply(
            ErrorCode.NONE,
            member_id=member_id,
            generation=group.generation,
            protocol_type=group.protocol_type,
            protocol_name=group.protocol_name,
            leader_id=group.leader_id or NO_MEMBER_ID,
            members=group.members_for_leader() if group.leader_id == member_id else (),
        )

    # --- members --------------------------------------------------------------------------------
    def drop_member(self, turn: Turn, group: ClassicGroup, member: Member) -> None:
        """Remove a member and answer what it waits for; the caller sees to the rebalance."""
        self._timers.cancel(TimerKey(TimerKind.SESSION, group.group_id, member.member_id))
        if member.has_joined:
            self.answer_join(turn, member, JoinReply(ErrorCode.UNKNOWN_MEMBER_ID))
        self.answer_sync(turn, member, SyncReply(ErrorCode.UNKNOWN_MEMBER_ID))
        group.remove(member.member_id)

    def drop_pending(self, group: ClassicGroup, member_id: str) -> None:
        """Forget an id that was given out but not used; the caller sees to the rebalance."""
        self._timers.cancel(TimerKey(TimerKind.SESSION, group.group_id, member_id))
        group.remove(member_id)

    def after_departure(self, turn: Turn, group: ClassicGroup, reason: str) -> None:
        """Go on without the members that were just dropped."""
        if not group.is_empty:
            self.start_or_go_on(turn, group, reason)

    def park_join(self, turn: Turn, member: Member, token: object) -> None:
        """Let a JoinGroup wait; one of the same member that waits already is sent away."""
        if member.has_joined:
            code = ErrorCode.REBALANCE_IN_PROGRESS
            self.answer_join(turn, member, JoinReply(code, member.member_id))
        member.join_token = token

    def park_sync(self, turn: Turn, group: ClassicGroup, member: Member, token: object) -> None:
        """Let a SyncGroup wait; one of the same member that waits already is sent away."""
        self.answer_sync(turn, member, SyncReply(ErrorCode.REBALANCE_IN_PROGRESS))
        member.sync_token = token
        self.note_sync(group, member)

    def note_sync(self, group: ClassicGroup, member: Member) -> None:
        """A member has sent its SyncGroup; stop waiting once all have."""
        group.unsynced_members.pop(member.member_id, None)
        if not group.unsynced_members:
            self._cancel_timer(TimerKind.SYNC, group)

    def forget_syncs(self, group: ClassicGroup) -> None:
        """Stop waiting for SyncGroup requests of this generation."""
        group.unsynced_members.clear()
        self._cancel_timer(TimerKind.SYNC, group)

    def expect_heartbeat(self, turn: Turn, group: ClassicGroup, member: Member) -> None:
        """A member has shown that it lives: it has its session timeout from now."""
        self._timers.set(
            TimerKey(TimerKind.SESSION, group.group_id, member.member_id),
            turn.now.clock_ms + member.session_timeout_ms,
        )

    # --- answers --------------------------------------------------------------------------------
    def answer_join(self, turn: Turn, member: Member, reply: JoinReply) -> None:
        """Answer the JoinGroup of a member that waits."""
        turn.answer(member.join_token, reply)
        member.join_token = None

    def answer_sync(self, turn: Turn, member: Member, reply: SyncReply) -> None:
        """Answer the SyncGroup of a member, if one waits."""
        if member.sync_token is not None:
            turn.answer(member.sync_token, reply)
            member.sync_token = None

    def answer_syncs(self, turn: Turn, group: ClassicGroup, code: ErrorCode) -> None:
        """Answer all SyncGroup requests that wait: with assignments, or with an error."""
        for member in group.members.values():
            if member.sync_token is None:
                continue
            # Its deadline may have passed unheeded while it waited.
            self.expect_heartbeat(turn, group, member)
            if code is ErrorCode.NONE:
                reply = SyncReply(code, group.protocol_type, group.protocol_name, member.assignment)
            else:
                reply = SyncReply(code)
            self.answer_sync(turn, member, reply)

    # --- deadlines ------------------------------------------------------------------------------
    def join_is_due(self, turn: Turn, group: ClassicGroup) -> None:
        """Members had their time to join."""
        if group.state is not GroupState.PREPARING_REBALANCE:
            return
        if not (group.is_initial and group.had_newcomer and group.initial_remaining_ms):
            self.complete_join(turn, group)
            return
        group.had_newcomer = False
        last_delay_ms = group.initial_delay_ms
        group.initial_delay_ms = min(
            self._config.initial_rebalance_delay_ms, group.initial_remaining_ms
        )
        group.initial_remaining_ms = max(group.initial_remaining_ms - last_delay_ms, 0)
        self._set_timer(turn, TimerKind.JOIN, group, group.initial_delay_ms)

    def sync_is_due(self, turn: Turn, group: ClassicGroup) -> None:
        """Members had their time to send SyncGroup."""
        late = list(group.unsynced_members)
        if not late or group.state not in (
            GroupState.COMPLETING_REBALANCE,
            GroupState.STABLE,
        ):
            return
        for member_id in late:
            self.drop_member(turn, group, group.members[member_id])
        self.start(turn, group, f"no SyncGroup in time from {late[0]!r}, {len(late)} in all")

    def session_is_due(self, turn: Turn, group: ClassicGroup, member_id: str) -> None:
        """A member, or an id given out, was silent for too long."""
        if member_id in group.pending_members:
            self.drop_pending(group, member_id)
            turn.note(group.group_id, f"member id {member_id!r} was never used")
            self.complete_join_if_all_have(turn, group)
            return
        member = group.members.get(member_id)
        if member is None or member.may_be_silent:
            return
        self.drop_member(turn, group, member)
        self.after_departure(turn, group, f"member {member_id!r} fell silent")

    def _wait_for_first_members(self, turn: Turn, group: ClassicGroup) -> None:
        """Give others time to join an empty group, so that it need not rebalance for each."""
        delay_ms = self._config.initial_rebalance_delay_ms
        if not delay_ms:
            self.complete_join(turn, group)
            return
        group.had_newcomer = False
        group.initial_delay_ms = delay_ms
        group.initial_remaining_ms = max(group.rebalance_timeout_ms - delay_ms, 0)
        self._set_timer(turn, TimerKind.JOIN, group, delay_ms)

    def _set_timer(self, turn: Turn, kind: TimerKind, group: ClassicGroup, delay_ms: int) -> None:
        self._timers.set(TimerKey(kind, group.group_id), turn.now.clock_ms + delay_ms)

    def _cancel_timer(self, kind: TimerKind, group: ClassicGroup) -> None:
        self._timers.cancel(TimerKey(kind, group.group_id))
