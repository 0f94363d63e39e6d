"""Who reads what: the assignors ``range`` and ``cooperative-sticky`` of group consumers.

Run by the client that leads its group. The names and what they promise are Apache Kafka's, so that
members with other client libraries can be in the same group, whoever leads. Racks are not looked
at: every partition of this broker is in one place.

Pure: what is assigned depends on the arguments alone, not on the order of dictionaries.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from attrs import frozen

from trio_broker.group.consumer_protocol import NO_GENERATION, AssignedPartition, Subscription
from trio_broker.names import TopicName

#: Member ids by partition, for each topic.
_Owners: TypeAlias = "dict[TopicName, dict[int, str]]"

_GENERATION_STRUCT = struct.Struct(">i")


@frozen(kw_only=True)
class GroupMember:
    """One member, as the leader knows it from the JoinGroup response.

    Attributes:
        subscription: decoded metadata.
        group_instance_id: of a static member.
    """

    subscription: Subscription
    group_instance_id: str | None = None


class Assignor(Protocol):
    """A way to assign partitions that all members of a group know by its name."""

    #: Name of the protocol in JoinGroup.
    name: str
    #: Whether members keep what they own while they join again, and give up only what has gone to
    #: others (KIP-429); else they give up everything first.
    is_cooperative: bool

    def user_data(self, generation: int) -> bytes | None:
        """Return the user data of a subscription, for a member of `generation` (-1: of none)."""

    def assign(
        self, partition_counts: Mapping[TopicName, int], members: Mapping[str, GroupMember]
    ) -> dict[str, list[AssignedPartition]]:
        """Assign every partition of the topics that somebody subscribes to.

        Args:
            partition_counts: partitions of each topic that exists; others are left out.
            members: by member id.

        Returns:
            An entry for each member. No partition is in two of them.
        """


class RangeAssignor:
    """Gives each member a range of each topic's partitions (org.apache.kafka RangeAssignor).

    Topics with equal partition counts and subscribers are assigned alike, so that they can be
    joined. The first members get one partition more where the counts do not divide.
    """

    name = "range"
    is_cooperative = False

    def user_data(self, generation: int) -> bytes | None:
        """See `Assignor`: none."""
        del generation
        return None

    def assign(
        self, partition_counts: Mapping[TopicName, int], members: Mapping[str, GroupMember]
    ) -> dict[str, list[AssignedPartition]]:
        """See `Assignor`."""
        assigned: dict[str, list[AssignedPartition]] = {member_id: [] for member_id in members}
        for topic, subscribers in sorted(_subscribers(members).items()):
            # Static members first, by their own names, which stay when member ids change.
            subscribers.sort(key=lambda member_id: _range_order(member_id, members[member_id]))
            each, extra_count = divmod(partition_counts.get(topic, 0), len(subscribers))
            start = 0
            for position, member_id in enumerate(subscribers):
                end = start + each + (position < extra_count)
                assigned[member_id] += [AssignedPartition(topic, p) for p in range(start, end)]
                start = end
        return assigned


class CooperativeStickyAssignor:
    """Keeps what members own as far as loads allow, and moves the rest in steps (KIP-429).

    First balanced, then sticky: no member could take a partition from one that has at least two
    more, and of all such assignments it is one with few moves. A partition that moves is given to
    nobody in this generation; its owner gives it up and joins again, and then it is free. Nearly
    always that is all. Where members read different topics, giving out what is free can make
    another move worth while, and so a third generation.
    """

    name = "cooperative-sticky"
    is_cooperative = True

    def user_data(self, generation: int) -> bytes | None:
        """See `Assignor`: the generation, for leaders that know only subscription version 1."""
        return _GENERATION_STRUCT.pack(generation)

    def assign(
        self, partition_counts: Mapping[TopicName, int], members: Mapping[str, GroupMember]
    ) -> dict[str, list[AssignedPartition]]:
        """See `Assignor`."""
        subscribers = {
            topic: sorted(member_ids)
            for topic, member_ids in sorted(_subscribers(members).items())
            if partition_counts.get(topic, 0)
        }
        claims = _claims(members)
        owners = _valid_owners(partition_counts, members, subscribers, claims)
        loads = dict.fromkeys(members, 0)
        for owned in owners.values():
            for owner in owned.values():
                loads[owner] += 1
        _give_out_free(partition_counts, subscribers, owners, loads)
        uneven = True
        while uneven:
            uneven = False
            for topic, member_ids in subscribers.items():
                uneven |= _even_out(member_ids, owners[topic], loads)
        assigned: dict[str, list[AssignedPartition]] = {member_id: [] for member_id in members}
        for topic, owned in owners.items():
            for partition, owner in sorted(owned.items()):
                place = AssignedPartition(topic, partition)
                claimants = claims.get(place)
                if not claimants or owner in claimants:
                    assigned[owner].append(place)
        return assigned


#: The assignors by name, best first as a client offers them.
ASSIGNORS: Mapping[str, Assignor] = {
    assignor.name: assignor for assignor in (RangeAssignor(), CooperativeStickyAssignor())
}


def _subscribers(members: Mapping[str, GroupMember]) -> dict[TopicName, list[str]]:
    found: dict[TopicName, list[str]] = {}
    for member_id, member in members.items():
        for topic in dict.fromkeys(member.subscription.topics):
            found.setdefault(topic, []).append(member_id)
    return found


def _range_order(member_id: str, member: GroupMember) -> tuple[bool, str]:
    instance_id = member.group_instance_id
    return (True, member_id) if instance_id is None else (False, instance_id)


def _generation(subscription: Subscription) -> int:
    """Return the generation that what a member owns is from; in version 1 it is user data."""
    data = subscription.user_data
    if subscription.generation != NO_GENERATION or data is None:
        return subscription.generation
    if len(data) != _GENERATION_STRUCT.size:
        return NO_GENERATION
    generation: int = _GENERATION_STRUCT.unpack(data)[0]
    return generation


def _claims(members: Mapping[str, GroupMember]) -> dict[AssignedPartition, set[str]]:
    """Return who says of which partitions that it reads them, right or wrong."""
    claims: dict[AssignedPartition, set[str]] = {}
    for member_id, member in members.items():
        for place in member.subscription.owned:
            claims.setdefault(place, set()).add(member_id)
    return claims


def _valid_owners(
    partition_counts: Mapping[TopicName, int],
    members: Mapping[str, GroupMember],
    subscribers: Mapping[TopicName, list[str]],
    claims: Mapping[AssignedPartition, set[str]],
) -> _Owners:
    """Return who may keep what: the claim of the newest generation, if there is just one."""
    owners: _Owners = {topic: {} for topic in subscribers}
    generations = {
        member_id: _generation(member.subscription) for member_id, member in members.items()
    }
    for (topic, partition), claimants in claims.items():
        if topic not in subscribers or not 0 <= partition < partition_counts[topic]:
            continue
        newest = max(generations[member_id] for member_id in claimants)
        candidates = [m for m in claimants if generations[m] == newest]
        if len(candidates) == 1 and candidates[0] in subscribers[topic]:
            owners[topic][partition] = candidates[0]
    return owners


def _give_out_free(
    partition_counts: Mapping[TopicName, int],
    subscribers: Mapping[TopicName, list[str]],
    owners: _Owners,
    loads: dict[str, int],
) -> None:
    """Give each partition without an owner to the subscriber that has least.

    Topics with few subscribers come first, because the others have more to choose from.
    """
    for topic in sorted(subscribers, key=lambda topic: (len(subscribers[topic]), topic)):
        owned = owners[topic]
        heap = [(loads[member_id], member_id) for member_id in subscribers[topic]]
        heapq.heapify(heap)
        for partition in range(partition_counts[topic]):
            if partition in owned:
                continue
            load, member_id = heap[0]
            owned[partition] = member_id
            loads[member_id] = load + 1
            heapq.heapreplace(heap, (load + 1, member_id))


def _even_out(subscribers: list[str], owned: dict[int, str], loads: dict[str, int]) -> bool:
    """Move partitions of a topic from members with much to some with at least two less.

    Each move makes the sum of the squares of all loads smaller, so this comes to an end.

    Returns:
        Whether anything was moved.
    """
    by_owner: dict[str, list[int]] = {}
    for partition, owner in owned.items():
        by_owner.setdefault(owner, []).append(partition)
    heap = [(loads[member_id], member_id) for member_id in subscribers]
    heapq.heapify(heap)
    moved = False
    for owner in sorted(by_owner, key=lambda member_id: (-loads[member_id], member_id)):
        for partition in sorted(by_owner[owner], reverse=True):
            while loads[heap[0][1]] != heap[0][0]:
                heapq.heapreplace(heap, (loads[heap[0][1]], heap[0][1]))
            load, member_id = heap[0]
            if loads[owner] - load < 2:
                break
            owned[partition] = member_id
            loads[owner] -= 1
            loads[member_id] = load + 1
            heapq.heapreplace(heap, (load + 1, member_id))
            moved = True
    return moved
