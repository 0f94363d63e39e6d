"""One group of the classic protocol: its members, its state, and what can be read off them.

After Apache Kafka's ClassicGroup. Holds no rule about when the state changes; those are in
`rebalance` and `membership`. Every group has one, also one whose clients only commit offsets.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

from trio_broker.errors import CorruptRecords, ErrorCode
from trio_broker.group.commands import JoinedMember, Protocol
from trio_broker.group.consumer_protocol import CONSUMER_PROTOCOL_TYPE, subscribed_topics
from trio_broker.group.group_metadata import UNKNOWN_MS, GroupMetadata, StoredMember
from trio_broker.group.members import Member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.names import TopicName


class GroupState(StrEnum):
    """State of a group; the values are what clients are shown."""

    EMPTY = "Empty"  # no members
    PREPARING_REBALANCE = "PreparingRebalance"  # waits for all members to join again
    COMPLETING_REBALANCE = "CompletingRebalance"  # waits for the leader's assignment
    STABLE = "Stable"  # every member knows what to do
    DEAD = "Dead"  # the coordinator has let it go


class Tally:
    """How many groups there are, and about how much memory their members and offsets take.

    Each partition of ``__consumer_offsets`` counts its own and adds it to that of the broker,
    because limits are meant for the broker as a whole.

    Attributes:
        groups: how many.
        size_bytes: metadata and assignments of members.
        offsets_bytes: what is committed.
    """

    __slots__ = ("_total", "groups", "offsets_bytes", "size_bytes")

    def __init__(self, total: Tally | None = None) -> None:
        self.groups = 0
        self.size_bytes = 0
        self.offsets_bytes = 0
        self._total = total

    @property
    def total(self) -> Tally:
        """What all partitions have together."""
        return self if self._total is None else self._total

    def add(self, *, groups: int = 0, size_bytes: int = 0, offsets_bytes: int = 0) -> None:
        """Count something, or with negative numbers no longer."""
        self.groups += groups
        self.size_bytes += size_bytes
        self.offsets_bytes += offsets_bytes
        if self._total is not None:
            self._total.add(groups=groups, size_bytes=size_bytes, offsets_bytes=offsets_bytes)

    def leave(self) -> None:
        """No longer count for the broker: the state of this partition is given up."""
        if self._total is not None:
            self._total.add(
                groups=-self.groups,
                size_bytes=-self.size_bytes,
                offsets_bytes=-self.offsets_bytes,
            )
            self._total = None


class ClassicGroup:
    """A group.

    Args:
        group_id: its name.
        tally: counts what its members take.

    Attributes:
        group_id: its name.
        state: see `GroupState`.
        changed_at_ms: when it came into that state, wall clock; -1: not known.
        generation: number of the present or, while members join, the last generation.
        protocol_type: what it is for; None: nobody has joined yet (Kafka's simple group).
        protocol_name: chosen for this generation.
        leader_id: member that assigns.
        members: by member id, in the order they joined.
        static_members: member ids by group instance id.
        pending_members: ids given out with MEMBER_ID_REQUIRED; a dictionary for its order.
        unsynced_members: members that have not sent SyncGroup in this generation; the same.
        subscribed: topics of a group of consumers; None: not known.
        is_initial: while joining: the group was empty before, so it waits for more members.
        had_newcomer: somebody joined since that waiting was last extended.
        initial_delay_ms, initial_remaining_ms: of that waiting.
        assignment_under_way: the assignment of this generation is being stored.
        stored: the generation that is durable.
        changes_under_way: records about the group that are neither stored nor refused yet.
        offsets_under_way: the same for each (topic, partition) of committed offsets.
    """

    __slots__ = (
        "assignment_under_way",
        "changed_at_ms",
        "changes_under_way",
        "generation",
        "group_id",
        "had_newcomer",
        "initial_delay_ms",
        "initial_remaining_ms",
        "is_initial",
        "leader_id",
        "members",
        "offsets_under_way",
        "pending_members",
        "protocol_name",
        "protocol_type",
        "state",
        "static_members",
        "stored",
        "subscribed",
        "unsynced_members",
        "_tally",
    )

    def __init__(self, group_id: str, tally: Tally) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.changed_at_ms = UNKNOWN_MS
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader_id: str | None = None
        self.members: dict[str, Member] = {}
        self.static_members: dict[str, str] = {}
        self.pending_members: dict[str, None] = {}
        self.unsynced_members: dict[str, None] = {}
        self.subscribed: frozenset[TopicName] | None = None
        self.is_initial = False
        self.had_newcomer = False
        self.initial_delay_ms = 0
        self.initial_remaining_ms = 0
        self.assignment_under_way = False
        self.stored: GroupMetadata | None = None
        self.changes_under_way = 0
        self.offsets_under_way: Counter[tuple[TopicName, int]] = Counter()
        self._tally = tally

    def __repr__(self) -> str:
        return (
            f"<ClassicGroup {self.group_id!r} {self.state.value} generation={self.generation} "
            f"members={len(self.members)}>"
        )

    # --- what can be read off -------------------------------------------------------------------
    @property
    def is_empty(self) -> bool:
        """Whether it has no members (pending ones are none)."""
        return self.state is GroupState.EMPTY

    @property
    def has_all_joined(self) -> bool:
        """Whether nobody is left to wait for."""
        return not self.pending_members and all(m.has_joined for m in self.members.values())

    @property
    def joined_count(self) -> int:
        """How many members' JoinGroup requests wait."""
        return sum(member.has_joined for member in self.members.values())

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long members may take to join again: as long as the slowest may."""
        return max((m.rebalance_timeout_ms for m in self.members.values()), default=0)

    @property
    def assignments_bytes(self) -> int:
        """How much memory the assignments of its members take."""
        return sum(len(member.assignment) for member in self.members.values())

    @property
    def is_of_consumers(self) -> bool:
        """Whether its members are consumers, so that its metadata means topics."""
        return self.protocol_type == CONSUMER_PROTOCOL_TYPE

    def is_subscribed(self, topic: TopicName) -> bool:
        """Whether a member reads a topic; True also where a group of consumers does not say."""
        return self.is_of_consumers if self.subscribed is None else topic in self.subscribed

    def check_member(self, member_id: str, group_instance_id: str | None) -> ErrorCode:
        """Say why a request is not one of a member; NONE if it is."""
        if group_instance_id is not None:
            known_id = self.static_members.get(group_instance_id)
            if known_id is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if known_id != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def can_take(self, protocol_type: str, protocols: tuple[Protocol, ...]) -> bool:
        """Whether somebody who knows these protocols could work with all members there are."""
        if self.is_empty:
            return bool(protocol_type and protocols)
        if protocol_type != self.protocol_type:
            return False
        # Sets, since hundreds of members may each name a thousand protocols.
        known_to_all = {name for name, _ in protocols}
        for member in self.members.values():
            known_to_all.intersection_update(name for name, _ in member.protocols)
            if not known_to_all:
                return False
        return bool(known_to_all)

    def choose_protocol(self) -> str:
        """Let each member vote for the first of its protocols that all know."""
        known_to_all = set.intersection(
            *({name for name, _ in member.protocols} for member in self.members.values())
        )
        votes = Counter(
            next(name for name, _ in member.protocols if name in known_to_all)
            for member in self.members.values()
        )
        return votes.most_common(1)[0][0]

    def members_for_leader(self) -> tuple[JoinedMember, ...]:
        """Return what the leader needs to know to assign."""
        assert self.protocol_name is not None
        return tuple(
            JoinedMember(m.member_id, m.group_instance_id, m.metadata(self.protocol_name))
            for m in self.members.values()
        )

    def to_store(self, assignments: Mapping[str, bytes]) -> GroupMetadata:
        """Return this generation as it is to be stored."""
        name = self.protocol_name
        return GroupMetadata(
            protocol_type=self.protocol_type or "",
            generation=self.generation,
            protocol_name=name,
            leader_id=self.leader_id,
            changed_at_ms=self.changed_at_ms,
            members=tuple(
                StoredMember(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    rebalance_timeout_ms=member.rebalance_timeout_ms,
                    session_timeout_ms=member.session_timeout_ms,
                    subscription=member.metadata(name) if name is not None else b"",
                    assignment=assignments.get(member.member_id, b""),
                )
                for member in self.members.values()
            ),
        )

    # --- changes --------------------------------------------------------------------------------
    def enter(self, state: GroupState, wall_ms: int) -> None:
        """Come into a state."""
        self.state = state
        self.changed_at_ms = wall_ms

    def add(self, member: Member, protocol_type: str) -> None:
        """Take a member in; the first one settles protocol type and leader."""
        if not self.members:
            self.protocol_type = protocol_type
        self.members[member.member_id] = member
        self._tally.add(size_bytes=member.size_bytes)
        if member.group_instance_id is not None:
            self.static_members[member.group_instance_id] = member.member_id
        if self.leader_id is None:
            self.leader_id = member.member_id
        self.pending_members.pop(member.member_id, None)

    def remove(self, member_id: str) -> None:
        """Drop a member or a pending one; another one becomes leader if need be."""
        member = self.members.pop(member_id, None)
        if member is not None:
            self._tally.add(size_bytes=-member.size_bytes)
            instance_id = member.group_instance_id
            if instance_id is not None and self.static_members.get(instance_id) == member_id:
                del self.static_members[instance_id]
        if self.leader_id == member_id:
            self.leader_id = next(iter(self.members), None)
        self.pending_members.pop(member_id, None)
        self.unsynced_members.pop(member_id, None)

    def rename(
        self, member: Member, new_member_id: str, *, client_id: str, client_host: str
    ) -> None:
        """Give a static member that came back its new id, with all that the old one had."""
        assert member.group_instance_id is not None
        before_bytes = member.size_bytes
        member.client_id = client_id
        member.client_host = client_host
        self._tally.add(size_bytes=member.size_bytes - before_bytes)
        old_member_id = member.member_id
        self.members = {
            new_member_id if known_id == old_member_id else known_id: known
            for known_id, known in self.members.items()
        }
        member.member_id = new_member_id
        self.static_members[member.group_instance_id] = new_member_id
        if self.leader_id == old_member_id:
            self.leader_id = new_member_id
        if old_member_id in self.unsynced_members:
            del self.unsynced_members[old_member_id]
            self.unsynced_members[new_member_id] = None

    def update(
        self,
        member: Member,
        protocols: tuple[Protocol, ...],
        session_timeout_ms: int,
        rebalance_timeout_ms: int,
    ) -> None:
        """Take what a member says when it joins again."""
        before_bytes = member.size_bytes
        member.protocols = protocols
        member.session_timeout_ms = session_timeout_ms
        member.rebalance_timeout_ms = rebalance_timeout_ms
        self._tally.add(size_bytes=member.size_bytes - before_bytes)

    def assign(self, assignments: Mapping[str, bytes]) -> None:
        """Tell each member what to do; nothing if it is not mentioned."""
        for member in self.members.values():
            assignment = assignments.get(member.member_id, b"")
            self._tally.add(size_bytes=len(assignment) - len(member.assignment))
            member.assignment = assignment

    def elect_leader(self) -> bool:
        """Keep the leader if it has joined, else take the first member that has.

        Returns:
            Whether there is such a member.
        """
        if self.leader_id is None:
            return False
        if self.members[self.leader_id].has_joined:
            return True
        for member in self.members.values():
            if member.has_joined:
                self.leader_id = member.member_id
                return True
        return False

    def begin_generation(self, wall_ms: int) -> None:
        """Count one up; with members their protocol is chosen, without the group is empty."""
        self.generation += 1
        self.protocol_name = self.choose_protocol() if self.members else None
        self.find_subscribed()
        self.unsynced_members.clear()
        self.assignment_under_way = False
        self.is_initial = False
        self.enter(GroupState.COMPLETING_REBALANCE if self.members else GroupState.EMPTY, wall_ms)

    def restore(self) -> None:
        """Become what is stored, after a restart."""
        stored = self.stored
        assert stored is not None
        self.generation = stored.generation
        self.protocol_type = stored.protocol_type or None
        self.protocol_name = stored.protocol_name
        self.state = GroupState.STABLE if stored.members else GroupState.EMPTY
        self.changed_at_ms = stored.changed_at_ms
        for member in stored.members:
            timeout_ms = member.rebalance_timeout_ms
            self.add(
                Member(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    session_timeout_ms=member.session_timeout_ms,
                    rebalance_timeout_ms=member.session_timeout_ms
                    if timeout_ms < 0
                    else timeout_ms,
                    protocols=(Protocol(stored.protocol_name or "", member.subscription),),
                    assignment=member.assignment,
                ),
                stored.protocol_type,
            )
        if stored.leader_id in self.members:
            self.leader_id = stored.leader_id
        self.find_subscribed()

    def find_subscribed(self) -> None:
        """Read off the members' metadata which topics they read."""
        name = self.protocol_name
        self.subscribed = None
        if not self.is_of_consumers:
            return
        if not self.members or name is None:
            self.subscribed = frozenset()
            return
        try:
            self.subscribed = subscribed_topics(
                member.metadata(name) for member in self.members.values()
            )
        except CorruptRecords:
            return  # a client with bytes of its own: as Kafka does, take every topic for read
