"""The group coordinator of one partition of ``__consumer_offsets``, as a state machine.

Pure: no Trio, no clock, no I/O. Task code in `broker/` owns one `GroupMachine` for each partition
it leads and runs it like this:

1. After a start: `replay` each record of the log, then `loaded`. Commands given before are
   answered with COORDINATOR_LOAD_IN_PROGRESS.
2. A command is decided at once, at any time, also while records of earlier ones are on their way
   into the log. It returns a `GroupDecision`. Without a checkpoint in between,
   send its `replies`; queue its `records` as one batch, if there are any; arrange for `expire` to
   be called at `wake_at_ms`.
3. When the batch is durable, call `stored` with the decision; if it was refused, `not_stored`
   with the append's error code. Each decision with records is given to exactly one of them,
   decisions whose records were stored in the order of the log. Both return a decision again, to
   be carried out in the same way.
4. A token that comes with a command is any object but None; a reply carries it back. Each token
   given is answered exactly once: in that decision, in a later one of any command, or by `close`.
   Requests may wait for long (JoinGroup as long as a rebalance takes).

What is decided at once, and what when stored: who is a member, sessions, and the steps of a
rebalance are state of this process alone, and change with the command, as in Apache Kafka. Offsets,
assignments, the end of a group and a static member's new id must survive a restart before anybody
hears of them: they take effect, and are answered, in `stored`. So after a crash at any point the
log holds the last generation that any member was given an assignment of (or a later one that
nobody has heard of), and every offset whose commit was answered.

A command that is refused leaves the state as it was, with one exception that is Kafka's too: a
member that wants to join again and is told GROUP_MAX_SIZE_REACHED is no longer a member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.config import INT64_MAX
from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import GroupState
from trio_broker.group.commands import (
    CodesReply,
    GroupDecision,
    GroupDescription,
    GroupListing,
    JoinGroup,
    JoinReply,
    LeaveReply,
    LeavingMember,
    MemberDescription,
    Now,
    SyncGroup,
    SyncReply,
)
from trio_broker.group.commits import Commits
from trio_broker.group.group_metadata import decode_group_metadata
from trio_broker.group.membership import Membership
from trio_broker.group.rebalance import Rebalances, TimerKey, TimerKind
from trio_broker.group.registry import Groups, encode_change
from trio_broker.group.schemas import (
    OffsetCommitKey,
    UnknownKey,
    decode_key,
    decode_offset_commit_value,
)
from trio_broker.group.timers import Timers
from trio_broker.group.turn import Answer, AssignmentWritten, Turn
from trio_broker.names import ZERO_TOPIC_ID, TopicName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from trio_broker.config import GroupConfig, LimitsConfig
    from trio_broker.group.classic_group import Tally
    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.schemas import CoordinatorRecord, OffsetCommitValue

#: What ListGroups calls groups of this protocol.
GROUP_TYPE = "classic"
#: A decision of `expire` takes up no further deadline once it has this many records.
_RECORDS_TARGET = 500


class GroupMachine:
    """All groups of one partition of ``__consumer_offsets``.

    Args:
        config: timeouts, delays and limits of groups.
        limits: how many groups, and how long the metadata of an offset may be.
        total: counts the groups of all partitions, which share the limits; None: only this one.
    """

    def __init__(
        self, config: GroupConfig, limits: LimitsConfig, total: Tally | None = None
    ) -> None:
        self._config = config
        self._timers: Timers[TimerKey] = Timers()
        self._groups = Groups(groups_max=limits.groups_max, total=total)
        self._rebalances = Rebalances(config, self._timers)
        self._membership = Membership(config, self._groups, self._timers, self._rebalances)
        self._commits = Commits(
            self._groups,
            self._membership,
            offsets_bytes_max=limits.offsets_bytes_max,
            retention_ms=config.offsets_retention_ms,
        )
        #: Why no command is taken; NONE while they are.
        self._closed_code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS

    def __repr__(self) -> str:
        return f"<GroupMachine of {len(self._groups)} groups>"

    # --- life -----------------------------------------------------------------------------------
    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take in a record of the log while loading; in order, from the first to the last.

        Raises:
            CorruptRecords: these are not the bytes of a key and value; nothing was changed.
        """
        assert self._closed_code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        decoded_key = decode_key(key)
        if isinstance(decoded_key, UnknownKey):
            return
        if value is None:
            self._groups.apply(decoded_key, None)
        elif isinstance(decoded_key, OffsetCommitKey):
            self._groups.apply(decoded_key, decode_offset_commit_value(value))
        else:
            self._groups.apply(decoded_key, decode_group_metadata(value))

    def loaded(self, now: Now) -> GroupDecision:
        """The log has been replayed: take commands, with members' sessions starting now."""
        assert self._closed_code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        self._closed_code = ErrorCode.NONE
        turn = Turn(now)
        for group in list(self._groups):
            if group.stored is not None:
                group.restore()
            self._groups.forget_if_nothing(group)
            for member in group.members.values():
                self._rebalances.expect_heartbeat(turn, group, member)
            if len(group.members) > self._config.group_size_max:
                self._rebalances.start(turn, group, "it has more members than it may have")
        return self._decide(turn)

    def close(self, now: Now, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> GroupDecision:
        """Answer all requests that wait with `code`, and every further command.

        Decisions under way may still be given to `stored` and `not_stored`.
        """
        self._closed_code = code
        turn = Turn(now)
        for group in self._groups:
            for member in group.members.values():
                if member.has_joined:
                    self._rebalances.answer_join(turn, member, JoinReply(code, member.member_id))
                self._rebalances.answer_sync(turn, member, SyncReply(code))
            group.enter(GroupState.DEAD, now.wall_ms)
        self._timers.clear()
        return self._decide(turn)

    def give_up(self) -> None:
        """Another machine takes the place of this one, which was closed."""
        self._groups.tally.leave()

    def stored(self, decision: GroupDecision, now: Now) -> GroupDecision:
        """The records of a decision are durable: let them take effect."""
        return self._settle(decision, ErrorCode.NONE, now)

    def not_stored(self, decision: GroupDecision, code: ErrorCode, now: Now) -> GroupDecision:
        """The records of a decision were refused, or may be lost: `code` says why."""
        assert code is not ErrorCode.NONE
        return self._settle(decision, code, now)

    def expire(self, now: Now) -> GroupDecision:
        """Let pass what was due: members that are silent, rebalances that waited enough."""
        turn = Turn(now)
        while len(turn.changes) < _RECORDS_TARGET:
            key = self._timers.pop_due(now.clock_ms)
            if key is None:
                break
            group = self._groups.get(key.group_id)
            if group is None:
                continue
            if key.kind is TimerKind.JOIN:
                self._rebalances.join_is_due(turn, group)
            elif key.kind is TimerKind.SYNC:
                self._rebalances.sync_is_due(turn, group)
            else:
                self._rebalances.session_is_due(turn, group, key.member_id)
            turn.touched.append(group)
        return self._decide(turn)

    # --- members --------------------------------------------------------------------------------
    def join(self, token: object, request: JoinGroup, now: Now) -> GroupDecision:
        """Decide a JoinGroup request; the reply is a `JoinReply` and may take long."""
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, JoinReply(self._closed_code, request.member_id))
        else:
            self._membership.join(turn, token, request)
        return self._decide(turn)

    def sync(self, token: object, request: SyncGroup, now: Now) -> GroupDecision:
        """Decide a SyncGroup request; the reply is a `SyncReply` and may take long."""
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, SyncReply(self._closed_code))
        else:
            self._membership.sync(turn, token, request)
        return self._decide(turn)

    def heartbeat(
        self,
        group_id: str,
        generation: int,
        member_id: str,
        group_instance_id: str | None,
        now: Now,
    ) -> ErrorCode:
        """Decide a Heartbeat request; `expire` is never due earlier because of it."""
        if self._closed_code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            return ErrorCode.NONE  # as Kafka does: it cannot be judged, and sessions start anew
        if self._closed_code:
            return self._closed_code
        return self._membership.heartbeat(group_id, generation, member_id, group_instance_id, now)

    def leave(
        self, token: object, group_id: str, members: Sequence[LeavingMember], now: Now
    ) -> GroupDecision:
        """Decide a LeaveGroup request; the reply is a `LeaveReply`, codes in the same order."""
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, LeaveReply(self._closed_code))
        else:
            self._membership.leave(turn, token, group_id, members)
        return self._decide(turn)

    # --- offsets --------------------------------------------------------------------------------
    def commit(
        self,
        token: object,
        commit: PreparedCommit,
        now: Now,
        *,
        gone: AbstractSet[TopicName] = frozenset(),
    ) -> GroupDecision:
        """Decide an OffsetCommit request; the reply is a `CodesReply`, always with all codes.

        Args:
            token: for the reply.
            commit: the request. It may have been prepared long before.
            now: the time.
            gone: topics of it that were deleted meanwhile.
        """
        turn = Turn(now)
        if self._closed_code:
            codes = (self._closed_code,) * len(commit.request.offsets)
            turn.answer(token, CodesReply(ErrorCode.NONE, codes))
        else:
            self._commits.commit(turn, token, commit, gone)
        return self._decide(turn)

    def delete_offsets(
        self,
        token: object,
        group_id: str,
        partitions: Sequence[tuple[TopicName, int]],
        now: Now,
    ) -> GroupDecision:
        """Decide an OffsetDelete request for partitions that exist; answers a `CodesReply`."""
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, CodesReply(self._closed_code))
        else:
            self._commits.delete_offsets(turn, token, group_id, partitions)
        return self._decide(turn)

    def delete_groups(self, token: object, group_ids: Sequence[str], now: Now) -> GroupDecision:
        """Decide a DeleteGroups request; answers a `CodesReply`, always with all codes."""
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, CodesReply(ErrorCode.NONE, (self._closed_code,) * len(group_ids)))
        else:
            self._commits.delete_groups(turn, token, group_ids)
        return self._decide(turn)

    def delete_topics(
        self,
        token: object,
        topics: Mapping[TopicName, UUID | None],
        now: Now,
        *,
        records_max: int = INT64_MAX,
    ) -> GroupDecision:
        """Forget what was committed for topics that are gone; answers a `CodesReply`.

        To be called again once the records are stored if there were as many as `records_max`.

        Args:
            token: for the reply.
            topics: names, each with the id of the topic that has it by now, whose offsets are
                left alone; None: there is none.
            now: the time.
            records_max: so many offsets are forgotten at most.
        """
        turn = Turn(now)
        if self._closed_code:
            turn.answer(token, CodesReply(self._closed_code))
        else:
            self._commits.delete_topics(turn, token, topics, records_max)
        return self._decide(turn)

    def expire_offsets(self, now: Now, *, records_max: int = 1000) -> GroupDecision:
        """Forget offsets that were not used for too long, and then their groups.

        To be called every `GroupConfig.offsets_retention_check_interval_ms`, and again once the
        records are stored if there were as many as `records_max`.
        """
        turn = Turn(now)
        if not self._closed_code:
            self._commits.expire(turn, records_max=records_max)
        return self._decide(turn)

    # --- looking --------------------------------------------------------------------------------
    @property
    def refusal(self) -> ErrorCode:
        """Why this coordinator takes no commands now; NONE if it does."""
        return self._closed_code

    @property
    def group_count(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    @property
    def group_ids(self) -> tuple[str, ...]:
        """All groups."""
        return tuple(group.group_id for group in self._groups)

    def member_count_of(self, group_id: str) -> int | None:
        """How many members a group has; None: there is no such group."""
        group = self._groups.get(group_id)
        return None if group is None else len(group.members)

    @property
    def member_count(self) -> int:
        """How many members all groups have."""
        return sum(len(group.members) for group in self._groups)

    @property
    def membership_bytes(self) -> int:
        """About how much memory the members take."""
        return self._groups.tally.size_bytes

    def fetch(
        self, group_id: str, topic: TopicName, partition: int, topic_id: UUID = ZERO_TOPIC_ID
    ) -> OffsetCommitValue | None:
        """Return what a group committed for a partition, or None; see `CommittedOffsets.fetch`."""
        return self._groups.offsets.fetch(group_id, topic, partition, topic_id)

    def fetch_all(self, group_id: str) -> Mapping[TopicName, Mapping[int, OffsetCommitValue]]:
        """Return all that a group committed, by topic and partition; not to be changed."""
        return self._groups.offsets.fetch_all(group_id)

    def list_groups(
        self, states: Sequence[str] = (), group_types: Sequence[str] = ()
    ) -> list[GroupListing]:
        """Return all groups, or those in one of the states and of one of the types.

        Case does not matter; a name that is no state or type matches no group.
        """
        wanted_states = {state.strip().lower() for state in states}
        if group_types and GROUP_TYPE not in {name.strip().lower() for name in group_types}:
            return []
        return [
            GroupListing(group.group_id, group.protocol_type or "", group.state.value, GROUP_TYPE)
            for group in self._groups
            if not wanted_states or group.state.lower() in wanted_states
        ]

    def describe(self, group_id: str) -> GroupDescription | None:
        """Return a group with its members, or None if there is no such group.

        For None, DescribeGroups answers the state "Dead", from version 6 on with
        GROUP_ID_NOT_FOUND.
        """
        group = self._groups.get(group_id)
        if group is None:
            return None
        name = group.protocol_name if group.state is GroupState.STABLE else None
        return GroupDescription(
            group_id=group_id,
            state=group.state.value,
            protocol_type=group.protocol_type or "",
            protocol_name=name or "",
            members=tuple(
                MemberDescription(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    metadata=b"" if name is None else member.metadata(name),
                    assignment=member.assignment,
                )
                for member in group.members.values()
            ),
        )

    def live_records(self) -> Iterator[CoordinatorRecord]:
        """Yield all that is durable, once: what a compacted log would hold.

        Not to be interleaved with commands, and only while no decision's records are under way:
        they would come before these in the log.
        """
        return self._groups.live_records()

    # --- common ---------------------------------------------------------------------------------
    def _settle(self, decision: GroupDecision, code: ErrorCode, now: Now) -> GroupDecision:
        turn = Turn(now)
        self._groups.end(decision.changes, stored=code is ErrorCode.NONE)
        if decision.commit is not None:
            self._groups.end_commit(decision.commit, stored=code is ErrorCode.NONE)
        for effect in decision.effects:
            if isinstance(effect, Answer):
                reply = effect.otherwise(code) if code else effect.response
                turn.answer(effect.token, reply)
            elif isinstance(effect, AssignmentWritten):
                self._membership.assignment_written(turn, effect, code)
            else:
                self._membership.static_rejoin_written(turn, effect, code)
        return self._decide(turn)

    def _decide(self, turn: Turn) -> GroupDecision:
        commit = turn.commit
        self._groups.begin(turn.changes)
        if commit is not None:
            self._groups.begin_commit(commit)
        for group in turn.touched:
            self._groups.forget_if_nothing(group)
        records = tuple(map(encode_change, turn.changes)) if commit is None else commit.records
        return GroupDecision(
            records=records,
            replies=tuple(turn.replies),
            wake_at_ms=self._timers.next_ms(),
            notes=tuple(turn.notes),
            changes=tuple(turn.changes),
            commit=commit,
            effects=tuple(turn.effects),
        )
