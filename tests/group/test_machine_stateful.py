"""Random histories of clients, time, disks and kills, against what must hold in all of them.

The clients are simple: they join, sync (a leader assigns at random, and differently each time it
is asked), send heartbeats, commit, leave, crash, and come back under the same name. The log takes
its time, refuses, or refuses and keeps what it refused. Restarts come at any point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.group.harness import Harness, frozen_state, is_refused
from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import ClassicGroup, GroupState
from trio_broker.group.commands import JoinReply, LeavingMember, SyncReply
from trio_broker.group.rebalance import TimerKey, TimerKind
from trio_broker.group.schemas import (
    OffsetCommitKey,
    decode_key,
    decode_offset_commit_value,
)

E = ErrorCode
PARTITIONS = 4
SESSION_MS = 10_000
REBALANCE_MS = 30_000
#: After that long without a word from any client, everything has an end: a new member's wait, a
#: last rebalance, a session.
QUIET_MS = 10 * 60 * 1000


@define
class Client:
    """A consumer as it sees itself."""

    instance: str | None
    version: int = 9
    member_id: str = ""
    generation: int = -1
    leads: bool = False
    others: list[str] = field(factory=list)
    tokens: dict[int, str] = field(factory=dict)

    def forget(self) -> None:
        self.member_id, self.generation, self.leads = "", -1, False
        self.others.clear()
        self.tokens.clear()

    @property
    def identity(self) -> str:
        return self.instance or self.member_id


def _join(world: Harness, client: Client, **changes: Any) -> int:
    arguments = {"instance": client.instance, "session_ms": SESSION_MS, "protocols": {"q": b""}}
    return world.join(client.member_id, **(arguments | changes))


ILLEGAL: dict[str, Callable[[Harness, Client], int | ErrorCode]] = {
    "a session that is too short": lambda w, c: _join(w, c, session_ms=1),
    "a session that is too long": lambda w, c: _join(w, c, session_ms=2**31 - 1),
    "no group": lambda w, c: _join(w, c, group_id=""),
    "a group whose name is too long": lambda w, c: _join(w, c, group_id="g" * 40_000),
    "a name that is too long": lambda w, c: _join(w, c, instance="i" * 1000),
    "no protocols": lambda w, c: _join(w, c, protocols={}),
    "no protocol type": lambda w, c: _join(w, c, protocol_type=""),
    "metadata that is too large": lambda w, c: _join(w, c, protocols={"q": bytes(2**17)}),
    "an id of another group": lambda w, c: w.join("c-1", group_id="h", instance=c.instance),
    "another protocol type": lambda w, c: _join(w, c, protocol_type="connect"),
    "protocols that no other knows": lambda w, c: _join(w, c, protocols={"x": b""}),
    "sync without a group": lambda w, c: w.sync(c.member_id, 1, group_id="h"),
    "heartbeat without a group": lambda w, c: w.heartbeat(c.member_id, 1, group_id="h"),
    "leaving no group": lambda w, c: w.leave(LeavingMember("x", c.instance), group_id="h"),
    "commit of a group that is not there": lambda w, c: w.commit(
        {("t", 0): 1}, "x", 1, group_id="h"
    ),
    "commit with much to say": lambda w, c: w.commit({("t", 0): 1}, metadata="x" * 5000),
    "deletion of a group with members": lambda w, _: w.delete_groups("g"),
    "deletion of a group that is not there": lambda w, _: w.delete_groups("h", ""),
    "deletion of offsets that are used": lambda w, _: w.delete_offsets("t"),
    "deletion of offsets without a group": lambda w, _: w.delete_offsets("t", group_id="h"),
}
NEEDS_MEMBERS = {
    "another protocol type",
    "protocols that no other knows",
    "deletion of a group with members",
    "deletion of offsets that are used",
}


class Groups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = Harness(delay_ms=3_000, stores_at_once=False, group_size_max=3)
        self.world.checks_refusals = True
        self.clients = [Client(None), Client(None), Client("i"), Client("j")]
        self.open_tokens: set[int] = set()
        self.delivered_count = 0
        self.owners: dict[tuple[int, int], str] = {}
        self.assigned_generation = 0
        self.seen_generation = 0
        self.acknowledged: dict[int, int] = {}
        self.commits: dict[int, tuple[int, int]] = {}
        self.offsets: dict[int, int] = {}
        self.logged: dict[int, list[int]] = {}

    # --- clients --------------------------------------------------------------------------------
    def sent(self, client: Client, token: int, what: str) -> None:
        client.tokens[token] = what
        self.open_tokens.add(token)
        self.deliver()

    def deliver(self) -> None:
        """Let clients see their replies."""
        replied = self.world.replied[self.delivered_count :]
        self.delivered_count += len(replied)
        for token in replied:
            reply = self.world.replies[token]
            for client in self.clients:
                what = client.tokens.pop(token, None)
                if isinstance(reply, JoinReply) and what is not None:
                    self.joined(client, reply)
                elif isinstance(reply, SyncReply) and what is not None:
                    self.synced(client, int(what), reply)
            partition, offset = self.commits.pop(token, (-1, -1))
            if partition >= 0 and self.world.codes(token) == (E.NONE,):
                self.acknowledged[partition] = offset
        self.open_tokens.difference_update(replied)
        if self.group is None:
            # Nothing of it was ever durable: nobody was given an assignment.
            assert self.assigned_generation == 0
            self.seen_generation = 0

    def joined(self, client: Client, reply: JoinReply) -> None:
        if reply.code is E.NONE:
            assert reply.generation >= self.seen_generation
            self.seen_generation = reply.generation
            client.member_id = reply.member_id
            client.generation = reply.generation
            client.leads = reply.leader_id == reply.member_id and not reply.skip_assignment
            client.others = [member.member_id for member in reply.members]
            assert bool(client.others) <= (reply.leader_id == reply.member_id)
        elif reply.code is E.MEMBER_ID_REQUIRED:
            client.member_id = reply.member_id
        elif reply.code in {E.UNKNOWN_MEMBER_ID, E.FENCED_INSTANCE_ID, E.GROUP_MAX_SIZE_REACHED}:
            client.member_id, client.generation = "", -1

    def synced(self, client: Client, generation: int, reply: SyncReply) -> None:
        if reply.code is not E.NONE:
            return
        self.assigned_generation = max(self.assigned_generation, generation)
        for partition in reply.assignment:
            owner = self.owners.setdefault((generation, partition), client.identity)
            assert owner == client.identity, "a partition is owned twice in one generation"

    # --- rules ----------------------------------------------------------------------------------
    @rule(index=st.integers(0, 3), version=st.integers(3, 9), flavour=st.sampled_from("aab"))
    def join(self, index: int, version: int, flavour: str) -> None:
        client = self.clients[index]
        client.version = version
        protocols = {"p": flavour.encode(), "q": b""} if flavour == "a" else {"q": b"", "p": b"b"}
        token = self.world.join(
            client.member_id,
            instance=client.instance,
            version=version,
            client_id="c" * version,
            protocols=protocols,
            session_ms=SESSION_MS,
            rebalance_ms=REBALANCE_MS,
        )
        self.sent(client, token, "join")

    @rule(index=st.integers(0, 3), owners=st.lists(st.integers(0, 9), min_size=4, max_size=4))
    def sync(self, index: int, owners: list[int]) -> None:
        client = self.clients[index]
        if client.generation < 0:
            return
        assignments: dict[str, bytes] = dict.fromkeys(client.others, b"")
        if client.leads and client.others:
            for partition, owner in enumerate(owners):
                assignments[client.others[owner % len(client.others)]] += bytes([partition])
        token = self.world.sync(
            client.member_id,
            client.generation,
            assignments,
            group_instance_id=client.instance,
        )
        self.sent(client, token, str(client.generation))

    @rule(
        who=st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
        rounds=st.integers(1, 4),
        flavour=st.sampled_from("aab"),
        owners=st.lists(st.integers(0, 9), min_size=4, max_size=4),
        stores_all=st.booleans(),
    )
    def cooperate(
        self, who: list[int], rounds: int, flavour: str, owners: list[int], stores_all: bool
    ) -> None:
        """Some clients do for a while what they should, and the log works: groups get stable."""
        for rounds_left in reversed(range(rounds)):
            for index in who:
                client = self.clients[index]
                if client.tokens:
                    continue
                code = self.world.heartbeat(client.member_id, client.generation, client.instance)
                if code is not E.NONE:
                    self.join(index, 9, flavour)
                else:
                    self.sync(index, owners)
            if stores_all or rounds_left:
                while self.world.under_way:
                    self.settle("stored")
                self.pass_time(3_000)

    @rule(index=st.integers(0, 3))
    def heartbeat(self, index: int) -> None:
        client = self.clients[index]
        code = self.world.heartbeat(client.member_id, client.generation, client.instance)
        if code in {E.UNKNOWN_MEMBER_ID, E.FENCED_INSTANCE_ID}:
            client.member_id, client.generation = "", -1

    @rule(index=st.integers(0, 3), partition=st.integers(0, PARTITIONS - 1), offset=st.integers(0))
    def commit(self, index: int, partition: int, offset: int) -> None:
        client = self.clients[index]
        offset %= 1 << 40
        token = self.world.commit(
            {("t", partition): offset},
            client.member_id,
            client.generation,
            group_instance_id=client.instance,
        )
        self.commits[token] = (partition, offset)
        self.open_tokens.add(token)
        self.deliver()

    @rule(index=st.integers(0, 3), by_instance=st.booleans())
    def leave(self, index: int, by_instance: bool) -> None:
        client = self.clients[index]
        member_id = "" if by_instance and client.instance else client.member_id
        self.open_tokens.add(self.world.leave(LeavingMember(member_id, client.instance)))
        self.deliver()
        client.forget()

    @rule(index=st.integers(0, 3))
    def crash(self, index: int) -> None:
        """A client is gone, and with it whoever read its replies."""
        self.clients[index].forget()

    @rule(index=st.integers(0, 3), wrong=st.sampled_from(["generation", "member", "instance"]))
    def send_nonsense(self, index: int, wrong: str) -> None:
        client = self.clients[index]
        if self.group and client.member_id in self.group.pending_members:
            return  # no member yet, so that nothing but the id counts when it leaves
        member_id = "nobody" if wrong == "member" else client.member_id or "nobody"
        instance = "nothing" if wrong == "instance" else client.instance
        generation = client.generation + 1_000_000
        self.pass_time(0)
        before = frozen_state(self.world.machine)
        tokens = [
            self.world.sync(member_id, generation, group_instance_id=instance),
            self.world.commit({("t", 0): 1}, member_id, generation, group_instance_id=instance),
        ]
        if wrong != "generation":
            tokens.append(self.world.join(member_id, instance=instance))
            tokens.append(self.world.leave(LeavingMember(member_id, instance)))
        codes = [self.world.heartbeat(member_id, generation, instance)]
        for token in tokens:
            reply: Any = self.world.replies[token]
            codes += [reply.code] if reply.code else list(getattr(reply, "codes", reply[1]))
        assert E.NONE not in codes
        assert frozen_state(self.world.machine) == before

    @rule(index=st.integers(0, 3), what=st.sampled_from(sorted(ILLEGAL)))
    def send_what_is_illegal(self, index: int, what: str) -> None:
        client = self.clients[index]
        has_members = self.group is not None and bool(self.group.members)
        if what in NEEDS_MEMBERS and not has_members:
            return
        before = frozen_state(self.world.machine)
        answer = ILLEGAL[what](self.world, client)
        if isinstance(answer, ErrorCode):
            assert answer is not E.NONE
        else:
            reply = self.world.replies[answer]
            if reply.code is E.GROUP_MAX_SIZE_REACHED:
                return  # looked at before what is wrong; who was a member may be none now
            assert is_refused(reply), (what, reply)
        assert frozen_state(self.world.machine) == before, what

    # --- the log, time, restarts ----------------------------------------------------------------
    @rule(outcome=st.sampled_from(["stored", "stored", "stored", "refused", "refused but kept"]))
    def settle(self, outcome: str) -> None:
        if not self.world.under_way:
            return
        records = self.world.under_way[0].records
        if outcome == "stored":
            self.offsets |= self.log_records(records)
            self.world.store()
        else:
            if outcome == "refused but kept":
                self.world.log += records
                self.log_records(records)
            self.world.refuse()
        self.deliver()

    def log_records(self, records: Sequence[tuple[bytes, bytes | None]]) -> dict[int, int]:
        """Remember which offsets were ever in the log; return those in these records."""
        found = {}
        for key, value in records:
            decoded = decode_key(key)
            if isinstance(decoded, OffsetCommitKey) and value is not None:
                found[decoded.partition] = decode_offset_commit_value(value).offset
                self.logged.setdefault(decoded.partition, []).append(found[decoded.partition])
        return found

    @rule(ms=st.sampled_from([1, 500, 3_000, 5_000, 9_999, 31_000]))
    def pass_time(self, ms: int) -> None:
        self.world.pass_time(ms)
        self.deliver()

    @rule(kept=st.integers(0, 3), compacted=st.booleans())
    def restart(self, kept: int, compacted: bool) -> None:
        """Kill the broker: what was under way is in the log up to some point, unacknowledged."""
        if compacted and not self.world.under_way:
            self.world.log = list(map(tuple, self.world.machine.live_records()))
        for decision in self.world.under_way[:kept]:
            self.world.log += decision.records
        self.offsets = self.log_records(self.world.log)
        for client in self.clients:
            client.tokens.clear()
        self.open_tokens.clear()
        self.commits.clear()
        self.world.restart()
        group = self.group
        assert (group.generation if group else 0) >= self.assigned_generation
        # Numbers of generations that nobody was given an assignment of may come again.
        self.seen_generation = self.assigned_generation

    # --- invariants -----------------------------------------------------------------------------
    @property
    def group(self) -> ClassicGroup | None:
        return self.world.machine._groups.get("g")

    @invariant()
    def offsets_are_those_of_the_log(self) -> None:
        held = {
            partition: self.world.offset("t", partition)
            for partition in range(PARTITIONS)
            if self.world.offset("t", partition) is not None
        }
        assert held == self.offsets
        for partition, offset in self.acknowledged.items():
            assert offset in self.logged[partition]

    @invariant()
    def the_group_is_in_order(self) -> None:
        group = self.group
        timers = self.world.machine._timers
        if group is None:
            assert not timers._deadlines
            assert self.world.machine.membership_bytes == 0
            return
        members = group.members.values()
        assert all(member_id == member.member_id for member_id, member in group.members.items())
        assert len(members) <= 3 or group.state is GroupState.PREPARING_REBALANCE
        assert (group.leader_id in group.members) == bool(members)
        assert group.static_members == {
            member.group_instance_id: member.member_id for member in members if member.is_static
        }
        assert not group.pending_members.keys() & group.members.keys()
        assert group.unsynced_members.keys() <= group.members.keys()
        assert self.world.machine.membership_bytes == sum(member.size_bytes for member in members)
        parked_joins = sum(member.has_joined for member in members)
        parked_syncs = sum(member.sync_token is not None for member in members)
        state = group.state
        assert (state is GroupState.EMPTY) <= (not members)
        assert (parked_syncs > 0) <= (state is GroupState.COMPLETING_REBALANCE)
        assert (parked_joins > 0) <= (state in {GroupState.PREPARING_REBALANCE, GroupState.STABLE})
        self.deadlines_are_in_order(group)

    def deadlines_are_in_order(self, group: ClassicGroup) -> None:
        timers = self.world.machine._timers
        state = group.state
        expected = {
            TimerKey(TimerKind.SESSION, "g", member_id)
            for member_id, member in group.members.items()
            if not member.may_be_silent
        }
        expected |= {TimerKey(TimerKind.SESSION, "g", m) for m in group.pending_members}
        if state is GroupState.PREPARING_REBALANCE:
            expected.add(TimerKey(TimerKind.JOIN, "g"))
        if group.unsynced_members and state in {
            GroupState.COMPLETING_REBALANCE,
            GroupState.STABLE,
        }:
            expected.add(TimerKey(TimerKind.SYNC, "g"))
        waiting = {
            TimerKey(TimerKind.SESSION, "g", member_id)
            for member_id, member in group.members.items()
            if member.may_be_silent
        }
        assert expected <= timers._deadlines.keys() <= expected | waiting
        if timers._deadlines:
            assert self.world.wake_at_ms is not None
            assert self.world.wake_at_ms <= min(timers._deadlines.values())

    @invariant()
    def what_is_under_way_is_counted(self) -> None:
        group = self.group
        counted = Counter(
            decode_key(key).group_id
            for decision in self.world.under_way
            for key, _ in decision.records
        )
        assert (group.changes_under_way if group else 0) == counted["g"]

    def teardown(self) -> None:
        """When all clients are silent and the log works, everything comes to an end."""
        while self.world.under_way:
            self.settle("stored")
        self.world.stores_at_once = True
        self.world.pass_time(QUIET_MS)
        self.deliver()
        assert not self.open_tokens
        assert self.group is None or self.group.is_empty
        assert self.world.wake_at_ms is None


def test_random_histories() -> None:
    run_state_machine_as_test(Groups, settings=settings(max_examples=80, stateful_step_count=30))
