"""What a group coordinator has promised its clients, and whether it kept it after a crash.

A promise is an answer: an offset whose commit was answered, an assignment that was given out, a
group whose deletion was answered. What was asked and not answered may have come true or not; from
the moment it is seen, it is as good as promised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import attrs

#: Group, topic, partition.
Place: TypeAlias = tuple[str, str, int]


class Violation(AssertionError):
    """The coordinator broke a promise."""


class Assigned(NamedTuple):
    """An assignment as a member was told."""

    identity: str
    member_id: str
    partitions: frozenset[int]


class Generation(NamedTuple):
    """What is stored of a group."""

    number: int
    assignments: Mapping[str, frozenset[int]]


@attrs.define
class Book:
    """All promises of one run.

    Attributes:
        offsets: for each place the offsets that may be committed; None: none.
        assigned: what members of a group were told in each generation.
        owners: who was told to read a partition in a generation.
        counts: how often what happened, for tests that must not pass because nothing did.
    """

    offsets: dict[Place, set[int | None]] = attrs.field(factory=lambda: defaultdict(lambda: {None}))
    assigned: dict[str, dict[int, dict[str, Assigned]]] = attrs.field(
        factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    owners: dict[tuple[str, int, int], str] = attrs.field(factory=dict)
    counts: dict[str, int] = attrs.field(factory=lambda: defaultdict(int))

    # ------------------------------------------------------------------------------- offsets
    def asked(self, place: Place, offset: int | None) -> None:
        """Note that somebody wants an offset committed, or with None forgotten."""
        self.offsets[place].add(offset)

    def answered(self, place: Place, offset: int | None) -> None:
        """Note that it was answered."""
        self.offsets[place] = {offset}
        self.counts["commits" if offset is not None else "deletions"] += 1

    def refused(self, place: Place, offset: int | None) -> None:
        """Note that it was refused for a reason that leaves no doubt."""
        if len(self.offsets[place]) > 1:
            self.offsets[place].discard(offset)

    def places_of(self, group: str, topic: str | None = None) -> list[Place]:
        """Return the places of a group, or those of one topic, that were ever asked for."""
        return [
            place
            for place in sorted(self.offsets)
            if place[0] == group and topic in (None, place[1])
        ]

    # --------------------------------------------------------------------------- assignments
    def given(self, group: str, generation: int, assigned: Assigned) -> None:
        """Note what a member was told to read.

        Raises:
            Violation: somebody else was told to read the same in that generation.
        """
        for partition in sorted(assigned.partitions):
            owner = self.owners.setdefault((group, generation, partition), assigned.identity)
            if owner != assigned.identity:
                raise Violation(
                    f"{partition} of generation {generation} is read by {owner} "
                    f"and by {assigned.identity}"
                )
        self.assigned[group][generation][assigned.member_id] = assigned
        self.counts["assignments"] += 1

    # -------------------------------------------------------------------------- after a crash
    def check_offsets(self, found: Callable[[Place], int | None]) -> None:
        """Compare what is committed after a start with what was promised.

        Raises:
            Violation: it is neither what was answered nor what was asked later.
        """
        for place, possible in sorted(self.offsets.items()):
            offset = found(place)
            if offset not in possible:
                raise Violation(f"{place} has {offset}, promised was one of {possible}")
            self.offsets[place] = {offset}

    def check_generation(self, group: str, stored: Generation | None) -> None:
        """Compare the generation that is stored after a start with those given out.

        Raises:
            Violation: it is an earlier one, or has other assignments.
        """
        told = self.assigned[group]
        if not told:
            return
        newest = max(told)
        if stored is None or stored.number < newest:
            raise Violation(f"{group}: generation {newest} was given out, found is {stored}")
        if stored.number > newest:
            return  # a later one that nobody has heard of
        for assigned in told[newest].values():
            known = stored.assignments.get(assigned.member_id)
            if known is not None and known != assigned.partitions:
                raise Violation(f"{assigned} of generation {newest} is now {sorted(known)}")
        missing = {one.member_id for one in told[newest].values()} - stored.assignments.keys()
        self._check_missing(told[newest], missing, stored)

    def _check_missing(
        self, told: Mapping[str, Assigned], missing: set[str], stored: Generation
    ) -> None:
        """Only a static member that came back may have another id now."""
        for member_id in sorted(missing):
            same = [
                other
                for other, partitions in stored.assignments.items()
                if partitions == told[member_id].partitions
            ]
            if not same:
                raise Violation(f"{told[member_id]} is not in {stored}")


def partitions_of(assignment: bytes) -> frozenset[int]:
    """Read the assignments of these members, a byte for each partition."""
    return frozenset(assignment)


def share(members: Sequence[str], partitions: int, turn: int) -> dict[str, bytes]:
    """Give out partitions one by one, to another member first each time."""
    given: dict[str, bytes] = dict.fromkeys(members, b"")
    for partition in range(partitions):
        given[members[(partition + turn) % len(members)]] += bytes([partition])
    return given
