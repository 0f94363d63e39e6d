"""What a broker has promised, as far as its clients know: the shadow model of a workload.

Clients say what they send, what is acknowledged, what is refused and what they read; whoever ends a
life of the broker says how. From that follows what must be there afterwards. Every record has a
value of its own, so whatever is found can be traced to the request that brought it.

Nothing here looks at a broker: `trio_broker.testing.invariants` does, and compares. The numbers in
messages (I1 and so on) are those of its table.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import define, field

from trio_broker.config import Durability
from trio_broker.testing.brokers import Ending
from trio_broker.testing.topic_settings import TopicSettings, values_of, weakest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from trio_broker.config import TopicConfig
    from trio_broker.testing.brokers import Life


class Violation(AssertionError):
    """The broker broke a promise."""


class StoredRecord(NamedTuple):
    """One record as it was found, with what its batch says about it."""

    offset: int
    value: bytes


@define(eq=False)
class PartitionModel:
    """What is known of one partition of one incarnation of a topic.

    Attributes:
        topic: the incarnation.
        index: of the partition.
        directory: on the broker's disk; empty before anybody has looked.
        sent: values that were sent, with their timestamps in milliseconds.
        never: values that were refused for good, with the reason.
        known: acknowledged or read: values by offset.
        learned_at: when (Trio time) each of these was learned.
        start: greatest log start offset seen.
        end: log end offset at the latest audit.
        secure_end: records below survive anything, in every mode.
        owed_end: the next audit must find the log at least this long.
        has_lost: some that were known are gone, which was allowed.
        lossy_from: known records from this offset on may be gone at the next audit; inf: none.
    """

    topic: TopicModel
    index: int
    directory: str = ""
    sent: dict[bytes, int] = field(factory=dict)
    never: dict[bytes, str] = field(factory=dict)
    known: dict[int, bytes] = field(factory=dict)
    learned_at: dict[int, float] = field(factory=dict)
    start: int = 0
    end: int = 0
    secure_end: int = 0
    owed_end: int = 0
    lossy_from: float = inf
    has_lost: bool = False
    _places: dict[bytes, int] = field(factory=dict)

    def __str__(self) -> str:
        return f"{self.topic}-{self.index}"

    @property
    def known_end(self) -> int:
        """Offset after the last record that is known."""
        return max(self.known, default=-1) + 1

    def send(self, values: Iterable[bytes], timestamp_ms: int) -> None:
        """Take note of records that are about to be sent, or sent again."""
        for value in values:
            self.sent.setdefault(value, timestamp_ms)
            self.never.pop(value, None)

    def refuse(self, values: Iterable[bytes], reason: str) -> None:
        """Take note of records that the broker has promised not to store."""
        for value in values:
            if value in self._places:
                raise Violation(f"I6 {self}: {value[:20]!r} is stored and refused ({reason})")
            self.never[value] = reason

    def learn(self, offset: int, value: bytes, now: float, how: str) -> None:
        """Take note of a record that was acknowledged or read at an offset.

        Raises:
            Violation: that contradicts what is known.
        """
        before = self.known.get(offset)
        if before == value:
            return
        if before is not None:
            if offset < self.lossy_from:
                raise Violation(
                    f"I2 {self}: {value[:20]!r} {how} at {offset}, where {before[:20]!r} was"
                )
            self.forget_from(offset)
        elsewhere = self._places.get(value)
        if elsewhere is not None:
            if elsewhere < self.lossy_from:
                raise Violation(
                    f"I3 {self}: {value[:20]!r} {how} at {offset}, and is at {elsewhere} already"
                )
            self.forget_from(elsewhere)
        if value in self.never:
            raise Violation(f"I6 {self}: {value[:20]!r} {how}, but refused: {self.never[value]}")
        self.known[offset] = value
        self.learned_at[offset] = now
        self._places[value] = offset

    def forget_from(self, offset: int) -> None:
        """Drop what was lost, which was allowed."""
        for lost in [known for known in self.known if known >= offset]:
            del self._places[self.known.pop(lost)]
            del self.learned_at[lost]

    def trimmed(self, start: int) -> None:
        """Take note that records below `start` were deleted on request, for good."""
        self.start = max(self.start, start)

    def secure(self) -> None:
        """Take note that all that is known, and may not be lost by now, is on the disk."""
        end = (
            self.known_end if self.lossy_from == inf else int(min(self.known_end, self.lossy_from))
        )
        self.secure_end = max(self.secure_end, end)

    def life_over(self, published_end: int | None, ending: Ending, *, kept_from: float) -> None:
        """Take note that the broker's process has ended.

        Args:
            published_end: the log end offset at that moment; None: unknown.
            ending: how it ended.
            kept_from: with a power cut, what was learned before this Trio time is on the disk,
                in interval mode.
        """
        if published_end is not None and (
            ending is not Ending.POWER_CUT or self.topic.durability is Durability.FSYNC
        ):
            self.owed_end = max(self.owed_end, published_end)
        if ending is Ending.POWER_CUT:
            self.power_lost(kept_from)

    def power_lost(self, kept_from: float) -> None:
        """Take note that what was not on the disk is gone, where that is allowed."""
        if self.topic.durability is Durability.FSYNC:
            return
        lossy_from: float = self.secure_end
        if self.topic.durability is Durability.INTERVAL:
            kept = [o for o, learned_at in self.learned_at.items() if learned_at < kept_from]
            lossy_from = max(self.secure_end, max(kept, default=-1) + 1)
        self.lossy_from = min(self.lossy_from, lossy_from)
        self.owed_end = min(self.owed_end, int(lossy_from))

    def disk_lied(self) -> None:
        """Take note that an fsync failed or hung: only waiting for fsync protects from that."""
        self.power_lost(-inf)

    def audited(self, start: int, end: int, records: Sequence[StoredRecord], now: float) -> None:
        """Take note of what an audit found, which was in order."""
        self.has_lost = self.has_lost or any(known >= end for known in self.known)
        self.start, self.end = start, end
        self.owed_end, self.lossy_from = end, inf
        self.forget_from(end)
        for record in records:
            self.learn(record.offset, record.value, now, "found")


@define(eq=False)
class TopicModel:
    """One incarnation of a topic.

    Attributes:
        name: shared with earlier and later incarnations.
        topic_id: its own.
        config: in effect when somebody looked last.
        settings: what its configuration may be.
        gave_way: it may have given way to others on a disk without room, at some time.
        was_weaker: acknowledgements may have promised less than fsync at some time.
        created_at: when (Trio time) it was first seen.
        deletion_begun: somebody has asked to delete it.
        is_deleted: the deletion was acknowledged.
    """

    name: str
    topic_id: UUID
    config: TopicConfig
    settings: TopicSettings
    created_at: float
    was_weaker: bool = False
    gave_way: bool = False
    partitions: list[PartitionModel] = field(factory=list)
    deletion_begun: bool = False
    is_deleted: bool = False
    deleted_at: float = inf

    def __str__(self) -> str:
        return f"{self.name}/{str(self.topic_id)[:8]}"

    @property
    def durability(self) -> Durability:
        """What acknowledgements mean at least."""
        return weakest(self.settings.lately("durability"))

    @property
    def was_always_durable(self) -> bool:
        """Whether what was acknowledged was on the disk each time."""
        return not self.was_weaker and self.durability is Durability.FSYNC

    def alter(self, values: Mapping[str, Any]) -> None:
        """Take note that somebody is about to ask for a configuration.

        What is known of a topic with durability fsync is on the disk by now, whatever comes next.
        """
        if "durability" in values and values["durability"] is not Durability.FSYNC:
            if self.durability is Durability.FSYNC:
                for partition in self.partitions:
                    partition.secure()
            self.was_weaker = True
        self.settings.attempt(values)

    def altered(self, values: Mapping[str, Any], *, flushed: bool) -> None:
        """Take note that it was acknowledged.

        Args:
            values: that were asked for last.
            flushed: a broker that came to promise more has written everything to its disk before
                it said so, and the disk worked.
        """
        self.settings.acknowledge(values)
        promise = values.get("durability")
        if promise is not None and flushed:
            if promise is Durability.FSYNC and self.durability is not Durability.FSYNC:
                for partition in self.partitions:
                    partition.secure()
            self.settings.acknowledged_promise(promise)

    def grow(self, count: int) -> None:
        """Have that many partitions."""
        while len(self.partitions) < count:
            self.partitions.append(PartitionModel(self, len(self.partitions)))


class CommittedModel:
    """What one group has committed for one partition of one incarnation of a topic.

    Commits are as durable as `fsync` whatever the durability of topics is: none may be lost.

    Attributes:
        possible: values that may be there: the last acknowledged one, and later ones whose fate
            is unknown; -1 is nothing.
    """

    def __init__(self) -> None:
        self.possible: list[int] = [-1]

    def attempt(self, offset: int) -> None:
        """A commit is about to be sent."""
        self.possible.append(offset)

    def acknowledge(self, offset: int) -> None:
        """The last attempt was answered with success."""
        self.possible = [offset]

    def deleted(self) -> None:
        """The topic is gone, and its committed offsets soon are."""
        self.possible.append(-1)

    def found(self, offset: int) -> bool:
        """The group was told this offset; return whether that can be. Knows it from then on."""
        if offset not in self.possible:
            return False
        # What was tried later may still be under way, and come true.
        self.possible = self.possible[self.possible.index(offset) :]
        return True


@define
class Model:
    """What a broker has promised.

    Attributes:
        by_id: every incarnation of every topic, oldest first.
        creating: names that somebody has asked to create.
        sent_by_name: values that were sent to a name, whichever topic had it.
        altering: what somebody has asked for by a topic's name, and which may still come about.
        committed: by group, topic id and partition.
        acknowledged: records, in all.
        may_trim: by topic name and partition: somebody has asked to delete records below.
        wall_ahead_ms: how far the broker's civil time was ahead at most.
        disk_was_full: topics without retention of their own may have given way.
    """

    by_id: dict[UUID, TopicModel] = field(factory=dict)
    creating: set[str] = field(factory=set)
    sent_by_name: dict[tuple[str, int], set[bytes]] = field(factory=dict)
    altering: dict[str, list[Mapping[str, Any]]] = field(factory=dict)
    committed: dict[tuple[str, UUID, int], CommittedModel] = field(factory=dict)
    acknowledged: int = 0
    may_trim: dict[tuple[str, int], float] = field(factory=dict)
    wall_ahead_ms: int = 0
    disk_was_full: bool = False

    @property
    def topics(self) -> list[TopicModel]:
        """Those that clients may use."""
        return [topic for topic in self.by_id.values() if not topic.deletion_begun]

    def partitions(self) -> Iterator[PartitionModel]:
        """Yield the partitions of every topic that is not deleted."""
        for topic in self.by_id.values():
            if not topic.is_deleted:
                yield from topic.partitions

    def topic_found(
        self,
        name: str,
        topic_id: UUID,
        config: TopicConfig,
        durability: Durability,
        partitions: int,
        now: float,
    ) -> TopicModel:
        """Take note of a topic that the broker has.

        Raises:
            Violation: it should not have it.
        """
        topic = self.by_id.get(topic_id)
        if topic is None:
            if name not in self.creating:
                raise Violation(f"I1 nobody has asked for a topic {name!r}")
            topic = TopicModel(
                name,
                topic_id,
                config,
                TopicSettings(values_of(config, durability)),
                now,
                was_weaker=durability is not Durability.FSYNC,
            )
            for values in self.altering.get(name, ()):
                topic.alter(values)
            self.by_id[topic_id] = topic
        if topic.is_deleted:
            raise Violation(f"I1 {topic} is there again after its deletion")
        if contradiction := topic.settings.contradiction(values_of(config, durability)):
            raise Violation(f"I1 {topic}: {contradiction}")
        topic.config = config
        if partitions < len(topic.partitions):
            raise Violation(f"I1 {topic} has {partitions} of {len(topic.partitions)} partitions")
        return topic

    def topic_gone(self, topic: TopicModel, now: float) -> None:
        """Take note that the broker does not have a topic.

        Raises:
            Violation: it should have it.
        """
        if not topic.deletion_begun:
            raise Violation(f"I1 {topic} is gone, and nobody has deleted it")
        if not topic.is_deleted:
            topic.is_deleted, topic.deleted_at = True, now
        for (_, topic_id, _), committed in self.committed.items():
            if topic_id == topic.topic_id:
                committed.deleted()

    def send_by_name(self, name: str, partition: int, values: Iterable[bytes]) -> None:
        """Take note of records that are about to be sent to whichever topic has that name."""
        self.sent_by_name.setdefault((name, partition), set()).update(values)

    def trim(self, partition: PartitionModel, offset: int) -> None:
        """Take note that somebody is about to delete records below an offset; -1: all there are.

        He says so by the name of the topic, so an incarnation that comes next may be meant.
        """
        key = partition.topic.name, partition.index
        self.may_trim[key] = max(self.may_trim.get(key, 0), inf if offset < 0 else offset)

    def incarnation(self, name: str, since: float) -> TopicModel | None:
        """Return the one topic that had a name from a moment (Trio time) on, None if several."""
        found = [t for t in self.by_id.values() if t.name == name and t.deleted_at >= since]
        return found[0] if len(found) == 1 and found[0].created_at < since else None

    def was_sent(self, partition: PartitionModel, value: bytes) -> bool:
        """Return whether somebody has sent a record to a partition."""
        by_name = self.sent_by_name.get((partition.topic.name, partition.index), ())
        return value in partition.sent or value in by_name

    def committed_by(self, group: str, topic_id: UUID, partition: int) -> CommittedModel:
        """Return what a group has committed for a partition."""
        return self.committed.setdefault((group, topic_id, partition), CommittedModel())

    def life_over(self, life: Life, now: float, *, interval_bound_seconds: float) -> None:
        """Take note of the end of a life of the broker: what must be there at the next start.

        Args:
            life: which has just ended.
            now: Trio time.
            interval_bound_seconds: in interval mode what is older than this is on the disk.
        """
        ends: dict[tuple[UUID, int], int] = {}
        if life.broker is not None:
            for replica in life.state.router.replicas():
                if replica.has_log:
                    ends[replica.topic_partition] = replica.log.log_end_offset
        # A disk that refuses need not take what the interval asks for; before that it did.
        kept_from = min(now, life.disk_failed_at) - interval_bound_seconds
        for partition in self.partitions():
            end = ends.get((partition.topic.topic_id, partition.index))
            partition.life_over(end, life.ending, kept_from=kept_from)
        self.disk_lied(life)

    def disk_lied(self, life: Life) -> None:
        """Take note that an fsync may have failed or hung where this life's disk lies."""
        for partition in self.partitions():
            if life.disk_lied_at(partition.directory):
                partition.disk_lied()

    def power_lost_while_down(self, life: Life) -> None:
        """Take note that the power was cut after a life had ended.

        After an orderly stop that says it was clean, nothing may be lost in any mode.
        """
        for partition in self.partitions():
            if not life.was_clean or life.disk_lied_at(partition.directory):
                partition.power_lost(-inf)
