"""Groups of real consumers through everything that happens to groups, and what must hold after it.

One server and all clients at the same time, a group for each client: what happens to the groups
happens to them together, so that the whole takes as long as one of them. What every member read
comes from its own process; who owned what in which generation, and what was committed, from
``__consumer_offsets`` itself.

`test_groups` tells the stories with short timeouts, ``python -m tests.clients.long_groups`` with
those that the clients and the server have by themselves.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.group_member import DEFAULT_PACE, QUICK_PACE, GroupMember, start_member
from tests.support.log_files import partition_directories, stored_batches
from tests.support.server import Server, free_port, running_server
from tests.support.waiting import wait_until
from trio_broker.group.consumer_protocol import decode_assignment
from trio_broker.group.group_metadata import GroupMetadata, decode_group_metadata
from trio_broker.group.schemas import (
    GroupMetadataKey,
    OffsetCommitKey,
    decode_key,
    decode_offset_commit_value,
)
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.records.iterate import iterate_records

TOPIC = "orders"
PARTITIONS = 12


@attrs.frozen
class Pace:
    """How fast a story goes.

    Attributes:
        members: of `group_member`: whether clients have their own timeouts.
        settings: of the server.
        patience_seconds: how long anything may take.
        records_per_burst: sent to each partition at a time.
    """

    members: str
    settings: Mapping[str, object]
    patience_seconds: float
    records_per_burst: int


QUICK = Pace(
    QUICK_PACE,
    {
        "group.initial_rebalance_delay_ms": 300,
        "group.session_timeout_min_ms": 1000,
        "group.offsets_topic_partitions": 2,
    },
    patience_seconds=40.0,
    records_per_burst=40,
)
#: A member that died is noticed after 45 s, and a group waits 300 s for one that does not join.
DEFAULTS = Pace(DEFAULT_PACE, {}, patience_seconds=400.0, records_per_burst=400)


@attrs.define
class Stored:
    """What ``__consumer_offsets`` says of one group, in the order in which it was written."""

    generations: list[GroupMetadata] = attrs.field(factory=list)
    commits: dict[int, list[int]] = attrs.field(factory=lambda: defaultdict(list))


def read_offsets_topic(data_dir: Path) -> Mapping[str, Stored]:
    """Read the log of the groups, of a server that has stopped."""
    found: dict[str, Stored] = defaultdict(Stored)
    for directory in partition_directories(data_dir, OFFSETS_TOPIC_NAME).values():
        for _, batch in stored_batches(directory):
            for record in iterate_records(batch, bytes_max=2**26):
                key = decode_key(record.key or b"")
                if record.value is None:
                    continue
                if isinstance(key, GroupMetadataKey):
                    value = decode_group_metadata(record.value)
                    found[key.group_id].generations.append(value)
                elif isinstance(key, OffsetCommitKey):
                    commit = decode_offset_commit_value(record.value)
                    found[key.group_id].commits[key.partition].append(commit.offset)
    return found


class Story:
    """A server and the members of all groups on it."""

    def __init__(
        self,
        directory: Path,
        clients: Sequence[str],
        pace: Pace = QUICK,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self.pace = pace
        self._tell = tell
        self.clients = clients
        self.data_dir = directory / "data"
        self.members: dict[str, list[GroupMember]] = {client: [] for client in clients}
        self.gone: dict[str, list[GroupMember]] = {client: [] for client in clients}
        self.sent = 0
        self._listen = f"127.0.0.1:{free_port()}"
        self._server_scope = contextlib.ExitStack()
        self.server = self.start_server()
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap})
        for future in admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values():
            future.result(30)

    def start_server(self) -> Server:
        """Start the server at the address where it was before."""
        self._tell("the server starts")
        server = self._server_scope.enter_context(
            running_server(self.data_dir, listen=self._listen, settings=self.pace.settings)
        )
        self.server = server
        return server

    def join(self, count: int = 1, *, instance: str = "") -> None:
        """Let members of every group come."""
        self._tell(f"{count} of each group come {instance and 'as ' + instance}".rstrip())
        for client in self.clients:
            for _ in range(count):
                group = f"{'static-' if instance else ''}{client}"
                self.members[client].append(
                    start_member(
                        client,
                        self.server.bootstrap,
                        group,
                        TOPIC,
                        self.directory,
                        instance=instance,
                        pace=self.pace.members,
                    )
                )

    def go(self, index: int, *, crash: bool = False) -> None:
        """Let one member of every group leave in order, or die."""
        self._tell(f"one of each group {'is killed' if crash else 'leaves'}")
        going = [self.members[client].pop(index) for client in self.clients]
        for client, member in zip(self.clients, going, strict=True):
            self.gone[client].append(member)
            if crash:
                member.kill()
            else:
                member.terminate()
        for member in going:
            member.wait()

    def settle(self) -> None:
        """Wait until every partition has one owner in each group, and every member some."""
        wait_until(self._is_settled, seconds=self.pace.patience_seconds, what=f"groups: {self!r}")
        self._tell("all groups are settled")

    def _is_settled(self) -> bool:
        settled = True
        for members in self.members.values():
            for member in members:
                member.look()
                member.check_alive()
            owned = [partition for member in members for partition in member.owned]
            settled = settled and sorted(owned) == list(range(PARTITIONS))
            settled = settled and all(member.owned for member in members)
        return settled

    def produce(self) -> None:
        """Send a burst, and wait until every group has read it."""
        producer = Producer(
            {"bootstrap.servers": self.server.bootstrap, "enable.idempotence": True, "linger.ms": 5}
        )
        for number in range(self.sent, self.sent + self.pace.records_per_burst):
            for partition in range(PARTITIONS):
                producer.produce(TOPIC, partition=partition, value=f"{partition}:{number}")
        assert producer.flush(30) == 0
        self.sent += self.pace.records_per_burst
        wait_until(
            self._is_read, seconds=self.pace.patience_seconds, what=f"every record read: {self!r}"
        )
        self._tell(f"all groups have read all {PARTITIONS * self.sent} records")

    def _is_read(self) -> bool:
        for client, members in self.members.items():
            seen = set()
            for member in members + self.gone[client]:
                member.look()
                if member in members:
                    member.check_alive()
                seen |= member.values.keys()
            if len(seen) < PARTITIONS * self.sent:
                return False
        return True

    def __repr__(self) -> str:
        groups = {
            client: (
                [sorted(member.owned) for member in members],
                len(set().union(*(member.values for member in self.everybody(client)))),
            )
            for client, members in self.members.items()
        }
        return f"<Story in {self.directory}, {PARTITIONS} x {self.sent} sent, {groups}>"

    def everybody(self, client: str) -> list[GroupMember]:
        """Return all members a group has had."""
        return self.members[client] + self.gone[client]

    def end(self) -> None:
        """Stop everything that runs."""
        for members in self.members.values():
            for member in members:
                member.kill()
                member.wait()
        self._server_scope.close()


@contextlib.contextmanager
def told(story: Story) -> Iterator[Story]:
    """Give a story for the length of a block, and let nothing of it run on."""
    try:
        yield story
    finally:
        story.end()


def tell_of_coming_and_going(story: Story) -> None:
    """Joining, leaving, SIGKILL, a broker that dies and one that restarts, a rolling bounce."""
    story.join(3)
    story.settle()
    story.produce()
    story.go(2)  # one leaves
    story.settle()
    story.produce()
    story.join()  # one comes
    story.settle()
    story.produce()
    story.go(0, crash=True)
    story.settle()
    story.produce()
    story.server.kill()
    story.start_server()
    story.produce()
    story.settle()
    assert story.server.stop() == 0
    story.start_server()
    story.produce()
    story.settle()
    for _ in range(2):  # all are replaced, one after the other
        story.join()
        story.go(0)
    story.settle()
    story.produce()
    for _ in range(2):
        story.go(0)
    assert story.server.stop() == 0


def tell_of_static_members(story: Story) -> dict[str, list[set[int]]]:
    """One of two static members is killed and comes back; return what both had before."""
    story.join(instance="one")
    story.join(instance="two")
    story.settle()
    story.produce()
    before = {
        client: [set(member.owned) for member in members]
        for client, members in story.members.items()
    }
    story.go(0, crash=True)
    story.join(instance="one")
    story.settle()
    story.produce()
    return before


def check_reading(story: Story, client: str) -> None:
    """Every record was read, and each partition in its order for as long as one member had it."""
    seen: set[tuple[int, int]] = set()
    for member in story.everybody(client):
        for (partition, offset), value in member.values.items():
            assert value == f"{partition}:{offset}"
            seen.add((partition, offset))
        for partition, offsets in member.spans:
            first = offsets[0]
            expected = list(range(first, first + len(offsets)))
            assert offsets == expected, f"partition {partition} of {member.path}"
    assert seen == {(partition, n) for partition in range(PARTITIONS) for n in range(story.sent)}


def check_commits(story: Story, client: str) -> None:
    """Committed offsets never went back, and cover everything in the end."""
    commits = read_offsets_topic(story.data_dir)[client].commits
    assert sorted(commits) == list(range(PARTITIONS))
    for partition, offsets in commits.items():
        assert offsets == sorted(offsets), f"partition {partition}"
        assert offsets[-1] == story.sent, f"partition {partition}"


def check_generations(generations: Sequence[GroupMetadata]) -> None:
    """No partition has two owners, no generation two assignments."""
    owners: dict[int, dict[int, str]] = {}
    last_generation = 0
    for metadata in generations:
        owned: dict[int, str] = {}
        for member in metadata.members:
            for place in decode_assignment(member.assignment).partitions:
                assert place.partition not in owned, f"two owners in {metadata}"
                owned[place.partition] = member.member_id
        assert metadata.generation >= last_generation
        last_generation = metadata.generation
        if owned and not any(member.group_instance_id for member in metadata.members):
            # A static member that comes back has a new id, with the same assignment.
            assert owners.setdefault(metadata.generation, owned) == owned
        assert set(owned) <= set(range(PARTITIONS))


def check_owners(story: Story, client: str) -> int:
    """No partition was owned twice in a generation; return how many generations there were."""
    generations = read_offsets_topic(story.data_dir)[client].generations
    check_generations(generations)
    assert any(
        sum(len(decode_assignment(m.assignment).partitions) for m in metadata.members) == PARTITIONS
        for metadata in generations
    )
    assert generations[-1].members == ()
    return generations[-1].generation


def check_static_restart(
    story: Story, stored: Mapping[str, Stored], client: str, before: Sequence[set[int]]
) -> None:
    """The member that came back has what it had, in the same generation."""
    members = story.members[client]
    assert [members[1].owned, members[0].owned] == before, client
    generations = stored[f"static-{client}"].generations
    check_generations(generations)
    full = [metadata for metadata in generations if len(metadata.members) == 2]
    # On a slow machine the two did not join in one rebalance, and had more generations before.
    with_old_id, with_new_id = full[-2:]
    assert with_old_id.generation == with_new_id.generation, client
    assert with_old_id.members != with_new_id.members, client
