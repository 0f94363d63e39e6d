"""Drives a `GroupMachine` the way its task code does: a log, a clock, and tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

from trio_broker.config import GroupConfig, LimitsConfig
from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import Tally
from trio_broker.group.commands import (
    CommitOffsets,
    GroupDecision,
    JoinGroup,
    JoinReply,
    LeavingMember,
    Now,
    Protocol,
    Response,
    SyncGroup,
)
from trio_broker.group.machine import GroupMachine
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.group.prepared_commit import PreparedCommit, preparing_commit
from trio_broker.names import TopicName

WALL_AT_START_MS = 1_700_000_000_000


def prepared_commit(
    request: CommitOffsets, *, now_ms: int, metadata_bytes_max: int
) -> PreparedCommit:
    """Prepare a request in one go."""
    preparing = preparing_commit(request, now_ms=now_ms, metadata_bytes_max=metadata_bytes_max)
    while True:
        try:
            next(preparing)
        except StopIteration as stop:
            prepared: PreparedCommit = stop.value
            return prepared


class Harness:
    """One machine with its log.

    Attributes:
        replies: by token.
        replied: tokens in the order they were answered.
        log: what is durable.
        under_way: decisions whose records are neither stored nor refused.
    """

    def __init__(
        self,
        *,
        delay_ms: int = 0,
        stores_at_once: bool = True,
        total: Tally | None = None,
        **config: int,
    ) -> None:
        limit_names = {"groups_max", "offset_metadata_bytes_max", "offsets_bytes_max"}
        limits = {name: config.pop(name) for name in limit_names & config.keys()}
        self.config = GroupConfig(initial_rebalance_delay_ms=delay_ms, **config)
        self.limits = LimitsConfig(**limits)
        self.total = total
        self.clock_ms = 0
        self.replies: dict[int, Response] = {}
        self.replied: list[int] = []
        self.log: list[tuple[bytes, bytes | None]] = []
        self.under_way: list[GroupDecision] = []
        self.stores_at_once = stores_at_once
        self.checks_refusals = False
        self.tokens = itertools.count(1)
        self.unique = itertools.count(1)
        self.wake_at_ms: int | None = None
        self.notes: list[str] = []
        self.machine = self._loaded_machine()

    @property
    def now(self) -> Now:
        return Now(WALL_AT_START_MS + self.clock_ms, self.clock_ms)

    def _loaded_machine(self) -> GroupMachine:
        machine = GroupMachine(self.config, self.limits, self.total)
        for key, value in self.log:
            machine.replay(key, value)
        self.carry_out(machine.loaded(self.now))
        return machine

    def restart(self) -> None:
        """Come back after a kill: what waited is never answered, what was under way is lost."""
        self.under_way.clear()
        self.machine = self._loaded_machine()

    # --- carrying out ---------------------------------------------------------------------------
    def carry_out(self, decision: GroupDecision) -> None:
        for token, response in decision.replies:
            assert isinstance(token, int)
            assert token not in self.replies, "answered twice"
            self.replies[token] = response
            self.replied.append(token)
        self.notes += [f"{group_id}: {text}" for group_id, text in decision.notes]
        self.wake_at_ms = decision.wake_at_ms
        if decision.records:
            self.under_way.append(decision)
            if self.stores_at_once:
                self.store()
        else:
            assert not decision.effects
            assert not decision.changes

    def command(self, token: int, give: Callable[[], GroupDecision]) -> int:
        """Give a command and carry out what comes of it; return the token.

        With `checks_refusals` a command that is refused at once must leave the state as it was.
        """
        if not self.checks_refusals:
            self.carry_out(give())
            return token
        before = frozen_state(self.machine)
        decision = give()
        after = frozen_state(self.machine)
        self.carry_out(decision)
        for answered, response in decision.replies:
            if answered == token and is_refused(response):
                assert not decision.records
                assert after == before, response
        return token

    def store(self) -> None:
        """Make the oldest records under way durable."""
        decision = self.under_way.pop(0)
        self.log += decision.records
        self.carry_out(self.machine.stored(decision, self.now))

    def refuse(self, code: ErrorCode = ErrorCode.KAFKA_STORAGE_ERROR) -> None:
        """Refuse the oldest records under way."""
        decision = self.under_way.pop(0)
        self.carry_out(self.machine.not_stored(decision, code, self.now))

    def pass_time(self, ms: int) -> None:
        """Let time pass, calling `expire` whenever the machine asked for it."""
        end_ms = self.clock_ms + ms
        while self.wake_at_ms is not None and self.wake_at_ms <= end_ms:
            self.clock_ms = max(self.clock_ms, self.wake_at_ms)
            self.carry_out(self.machine.expire(self.now))
        self.clock_ms = end_ms

    # --- commands -------------------------------------------------------------------------------
    def join(
        self,
        member_id: str = "",
        *,
        group_id: str = "g",
        instance: str | None = None,
        protocols: dict[str, bytes] | tuple[Protocol, ...] | None = None,
        session_ms: int = 10_000,
        rebalance_ms: int = 60_000,
        version: int = 9,
        protocol_type: str = "test",
        client_id: str = "c",
        reason: str | None = None,
    ) -> int:
        """Send JoinGroup; return the token."""
        known = {"p": b"m"} if protocols is None else protocols
        if isinstance(known, dict):
            known = tuple(Protocol(*item) for item in known.items())
        token = next(self.tokens)
        request = JoinGroup(
            group_id=group_id,
            member_id=member_id,
            group_instance_id=instance,
            client_id=client_id,
            client_host="/127.0.0.1",
            protocol_type=protocol_type,
            protocols=known,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            unique_text=f"{next(self.unique):04}",
            api_version=version,
            reason=reason,
        )
        return self.command(token, lambda: self.machine.join(token, request, self.now))

    def member_id(self, **arguments: Any) -> str:
        """Ask for a member id."""
        reply = self.joined(self.join(**arguments))
        assert reply.code is ErrorCode.MEMBER_ID_REQUIRED
        return reply.member_id

    def join_new(self, **arguments: Any) -> tuple[str, int]:
        """Ask for a member id and join with it; return the id and the token of the JoinGroup."""
        member_id = self.member_id(**arguments)
        return member_id, self.join(member_id, **arguments)

    def sync(
        self,
        member_id: str,
        generation: int,
        assignments: dict[str, bytes] | None = None,
        *,
        group_id: str = "g",
        **arguments: Any,
    ) -> int:
        """Send SyncGroup; return the token."""
        token = next(self.tokens)
        request = SyncGroup(
            group_id=group_id,
            generation=generation,
            member_id=member_id,
            assignments=assignments or {},
            **arguments,
        )
        return self.command(token, lambda: self.machine.sync(token, request, self.now))

    def heartbeat(
        self, member_id: str, generation: int, instance: str | None = None, group_id: str = "g"
    ) -> ErrorCode:
        return self.machine.heartbeat(group_id, generation, member_id, instance, self.now)

    def leave(self, *members: str | LeavingMember, group_id: str = "g") -> int:
        """Send LeaveGroup; return the token."""
        token = next(self.tokens)
        leaving = [LeavingMember(m) if isinstance(m, str) else m for m in members]
        return self.command(token, lambda: self.machine.leave(token, group_id, leaving, self.now))

    def commit(
        self,
        offsets: dict[tuple[str, int], int],
        member_id: str = "",
        generation: int = -1,
        *,
        group_id: str = "g",
        metadata: str = "",
        **arguments: Any,
    ) -> int:
        """Send OffsetCommit; return the token."""
        token = next(self.tokens)
        request = CommitOffsets(
            group_id=group_id,
            generation=generation,
            member_id=member_id,
            offsets=tuple(
                OffsetToCommit(TopicName(topic), partition, offset, metadata=metadata)
                for (topic, partition), offset in offsets.items()
            ),
            **arguments,
        )
        commit = prepared_commit(
            request,
            now_ms=self.now.wall_ms,
            metadata_bytes_max=self.limits.offset_metadata_bytes_max,
        )
        return self.command(token, lambda: self.machine.commit(token, commit, self.now))

    def delete_groups(self, *group_ids: str) -> int:
        """Send DeleteGroups; return the token."""
        token = next(self.tokens)
        return self.command(token, lambda: self.machine.delete_groups(token, group_ids, self.now))

    def delete_offsets(self, topic: str, partition: int = 0, *, group_id: str = "g") -> int:
        """Send OffsetDelete; return the token."""
        token = next(self.tokens)
        places = [(TopicName(topic), partition)]
        return self.command(
            token, lambda: self.machine.delete_offsets(token, group_id, places, self.now)
        )

    # --- looking --------------------------------------------------------------------------------
    def joined(self, token: int) -> JoinReply:
        reply = self.replies[token]
        assert isinstance(reply, JoinReply)
        return reply

    def code(self, token: int) -> ErrorCode:
        return self.replies[token].code

    def codes(self, token: int) -> tuple[ErrorCode, ...]:
        """Return the codes of a request that has one for each thing."""
        reply: Any = self.replies[token]
        assert reply.code is ErrorCode.NONE
        return tuple(reply.members if hasattr(reply, "members") else reply.codes)

    def state(self, group_id: str = "g") -> str:
        description = self.machine.describe(group_id)
        return "Dead" if description is None else description.state

    def offset(self, topic: str, partition: int = 0, group_id: str = "g") -> int | None:
        committed = self.machine.fetch(group_id, TopicName(topic), partition)
        return None if committed is None else committed.offset

    # --- groups ---------------------------------------------------------------------------------
    def generation(self, count: int = 2, **arguments: Any) -> tuple[list[str], int]:
        """Let new members join; return them, the leader first, and their generation."""
        members = [self.member_id(**arguments) for _ in range(count)]
        tokens = {member_id: self.join(member_id, **arguments) for member_id in members}
        while any(token not in self.replies for token in tokens.values()):
            for member_id, token in tokens.items():
                if token in self.replies:
                    tokens[member_id] = self.join(member_id, **arguments)
        [generation] = {self.joined(token).generation for token in tokens.values()}
        [leader] = {self.joined(token).leader_id for token in tokens.values()}
        return sorted(members, key=lambda member_id: member_id != leader), generation

    def stable(
        self, count: int = 2, group_id: str = "g", **arguments: Any
    ) -> tuple[list[str], int]:
        """Make a new group stable; return its members, the leader first, and the generation."""
        members, generation = self.generation(count, group_id=group_id, **arguments)
        given = {member_id: f"for {member_id}".encode() for member_id in members}
        for member_id in reversed(members):
            self.sync(member_id, generation, given, group_id=group_id)
        return members, generation

    def static(self, instance: str, **arguments: Any) -> str:
        """Make a group of one static member stable; return its id."""
        member_id = self.joined(self.join(instance=instance, **arguments)).member_id
        self.sync(member_id, 1, {member_id: b"work"}, group_instance_id=instance)
        return member_id


#: Refusals after which something may have changed: an id was given out; whoever joins again and
#: finds no room is out, as in Kafka.
_CHANGING = {ErrorCode.MEMBER_ID_REQUIRED, ErrorCode.GROUP_MAX_SIZE_REACHED}


def is_refused(response: Response) -> bool:
    """Whether an answer says that nothing at all was done."""
    if response.code:
        return response.code not in _CHANGING
    codes = getattr(response, "codes", None) or getattr(response, "members", None) or ()
    return bool(codes) and all(isinstance(code, ErrorCode) and code for code in codes)


def frozen_state(thing: object) -> object:
    """Return a comparable picture of all that a machine knows (but not of stale heap entries)."""
    if isinstance(thing, dict):
        return [(frozen_state(key), frozen_state(value)) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset):
        items = [frozen_state(item) for item in thing]
        return sorted(items, key=repr) if isinstance(thing, set | frozenset) else items
    if isinstance(thing, int | str | bytes | None):
        return thing
    slots = _slots_of(type(thing))
    if slots is None:
        return repr(thing)
    names = sorted(slots | getattr(thing, "__dict__", {}).keys() - _STALE)
    return [(name, frozen_state(getattr(thing, name))) for name in names]


#: What a machine's state does not consist of: heap entries that are skipped, and Python's own.
_STALE = {"_heap", "_queued_ms", "_order", "__weakref__", "__dict__"}


@cache
def _slots_of(cls: type) -> set[str] | None:
    """Return the slots of one of our own classes; None of any other, and of enums."""
    if issubclass(cls, Enum) or not cls.__module__.startswith("trio_broker"):
        return None
    return {name for base in cls.__mro__ for name in getattr(base, "__slots__", ())} - _STALE
