"""A whole broker on a simulated machine, and members of groups on another, through crashes.

The members are simple but real: they join, share out partitions, commit one offset after the other,
beat, leave, and come back after the broker has; another client commits for a group without members,
deletes offsets, a group and a topic. What they are promised goes into a `Book`. In its first life
the machine loses its power, or the process is killed, at one disk operation of
``__consumer_offsets``; after each start the book is compared with what the coordinator knows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tests.broker.error_table import create, delete_topic, offset_delete
from tests.broker.group_calls import join_request
from tests.broker.harness import Running, World
from tests.broker.test_offsets import commit_request
from tests.simulation.group_book import (
    Assigned,
    Book,
    Generation,
    Place,
    Violation,
    partitions_of,
    share,
)
from trio_broker.broker.broker import BrokerTree
from trio_broker.config import Durability, GroupConfig, StorageConfig
from trio_broker.errors import ErrorCode
from trio_broker.names import OFFSETS_TOPIC_NAME, TopicName
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest
from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

GROUP, SIMPLE = "readers", "simple"
ORDERS, CARTS = "orders", "carts"
PARTITIONS = 4
#: As long as nobody is dropped for being silent while housekeeping has its turn.
SESSION_MS = 600_000
REBALANCE_MS = 20_000
#: A segment holds a few commits, so that the log is shortened within the story.
CONFIG = GroupConfig(offsets_topic_partitions=1, offsets_topic_segment_bytes=1024)
#: Longer than the time between two turns of housekeeping.
SHORTENING_SECONDS = 61.0
STEPS_MAX = 400_000
SECONDS_MAX = 3_000.0
CONNECT_SECONDS = 5.0
#: Enough for a rebalance that waits for members which are gone, and one more.
SETTLE_SECONDS = 120.0

E = ErrorCode
#: Look for the coordinator again, or ask again.
AGAIN = {
    E.NOT_COORDINATOR,
    E.COORDINATOR_NOT_AVAILABLE,
    E.COORDINATOR_LOAD_IN_PROGRESS,
    E.REBALANCE_IN_PROGRESS,
    E.REQUEST_TIMED_OUT,
}
#: The member is none any more, or of another generation.
JOIN_AGAIN = {E.UNKNOWN_MEMBER_ID, E.ILLEGAL_GENERATION, E.FENCED_INSTANCE_ID}


class Case(NamedTuple):
    """One run: a seed, and what happens at which operation of the first life.

    Attributes:
        kind: "none", "power" (a power cut), "kill" (of the process), "power twice": again at some
            operation of the next life, which may be one of its start; or "none unsynced" and "kill
            unsynced", with logs that are never synced, which a kill must not matter to either.
        operation: number of the disk operation.
    """

    seed: int
    kind: str = "none"
    operation: int = 0

    @property
    def durability(self) -> Durability:
        """What an answer means in this run."""
        return Durability.OS if self.kind.endswith("unsynced") else Durability.FSYNC

    def __str__(self) -> str:
        return f"{self.seed} {self.kind.replace(' ', '-')} {self.operation}"


def parse_case(text: str) -> Case:
    """Read what `Case.__str__` wrote."""
    seed, kind, operation = text.split()
    return Case(int(seed), kind.replace("-", " "), int(operation))


class Gone(Exception):
    """The broker is not there any more."""


class Talker:
    """Somebody who talks to the broker, and may find it gone."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.book = story.book

    async def ask(self, client: Any, request: Any, version: int) -> Any:
        """Send a request and return the answer.

        Raises:
            Gone: there is none.
        """
        try:
            answer = await client.call(request, version)
        except (trio.BrokenResourceError, trio.TooSlowError, OSError):
            raise Gone from None
        if answer is None:
            raise Gone
        return answer

    async def commit(self, client: Any, place: Place, offset: int, **member: Any) -> ErrorCode:
        """Commit one offset, and note what came of it."""
        group, topic, partition = place
        request = commit_request(offset, topic=topic, group_id=group, **member)
        request.topics[0].partitions[0].partition_index = partition
        self.book.asked(place, offset)
        answer = await self.ask(client, request, 8)
        code = ErrorCode(answer.topics[0].partitions[0].error_code)
        if code is E.NONE:
            self.book.answered(place, offset)
        elif code in JOIN_AGAIN | {E.REBALANCE_IN_PROGRESS, E.UNKNOWN_TOPIC_OR_PARTITION}:
            self.book.refused(place, offset)
        return code


class Reader(Talker):
    """A member of the group, through all lives of the broker."""

    def __init__(self, story: Story, name: str, instance: str | None = None) -> None:
        super().__init__(story)
        self.name = name
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.owned: frozenset[int] = frozenset()
        self.left = False

    def __repr__(self) -> str:
        return f"<{self.name}, generation {self.generation}, {sorted(self.owned)}>"

    def restart(self) -> None:
        """Forget everything, as a process that was killed; a static member keeps its name."""
        self.member_id, self.generation, self.owned = "", -1, frozenset()

    async def run(
        self, rounds: int, *, leaves: bool = False, until: Callable[[], bool] = lambda: True
    ) -> None:
        """Join and commit for so many rounds, and for more until something is true."""
        try:
            async with self.story.connect() as client:
                while rounds > 0 or not until():
                    rounds -= 1
                    await self._round(client)
                if leaves:
                    await self._leave(client)
        except Gone:
            pass

    async def _round(self, client: Any) -> None:
        await trio.sleep(self.story.draws.uniform(0.0, 0.05))
        code = E.UNKNOWN_MEMBER_ID
        if self.generation >= 0:
            beat = HeartbeatRequest(
                group_id=GROUP,
                generation_id=self.generation,
                member_id=self.member_id,
                group_instance_id=self.instance,
            )
            code = ErrorCode((await self.ask(client, beat, 4)).error_code)
        if code is not E.NONE:
            await self._join(client)
        for partition in sorted(self.owned):
            code = await self.commit(
                client,
                (GROUP, ORDERS, partition),
                self.story.next_offset(partition),
                member_id=self.member_id,
                generation_id_or_member_epoch=self.generation,
                group_instance_id=self.instance,
            )
            if code is not E.NONE:
                return  # the next heartbeat will tell

    async def _join(self, client: Any) -> None:
        while True:
            request = join_request(
                self.member_id,
                group=GROUP,
                group_instance_id=self.instance,
                session_timeout_ms=SESSION_MS,
                rebalance_timeout_ms=REBALANCE_MS,
            )
            joined = await self.ask(client, request, 9)
            code = ErrorCode(joined.error_code)
            if code is E.MEMBER_ID_REQUIRED:
                self.member_id = joined.member_id
            elif code in JOIN_AGAIN:
                self.member_id = ""
            elif code in AGAIN:
                await trio.sleep(0.3)
            elif code is not E.NONE:
                raise Violation(f"{self.name} cannot join: {code.name}")
            elif await self._sync(client, joined):
                return

    async def _sync(self, client: Any, joined: Any) -> bool:
        # Of no generation until it knows what to read, for the answer may not come.
        self.member_id, self.generation, self.owned = joined.member_id, -1, frozenset()
        shares: dict[str, bytes] = {}
        if joined.leader == joined.member_id and not joined.skip_assignment:
            members = sorted(member.member_id for member in joined.members)
            shares = share(members, PARTITIONS, self.story.draws.randrange(7))
        request = SyncGroupRequest(
            group_id=GROUP,
            generation_id=joined.generation_id,
            member_id=self.member_id,
            group_instance_id=self.instance,
            protocol_type="consumer",
            protocol_name="range",
            assignments=[
                SyncGroupRequestAssignment(member_id=member_id, assignment=assignment)
                for member_id, assignment in shares.items()
            ],
        )
        synced = await self.ask(client, request, 5)
        code = ErrorCode(synced.error_code)
        if code is E.NONE:
            self.left = False
            self.generation = joined.generation_id
            self.owned = partitions_of(bytes(synced.assignment))
            identity = self.instance or self.member_id
            self.book.given(GROUP, self.generation, Assigned(identity, self.member_id, self.owned))
            return True
        if code not in AGAIN | JOIN_AGAIN:
            raise Violation(f"{self.name} cannot sync: {code.name}")
        await trio.sleep(0.1)
        return False

    async def _leave(self, client: Any) -> None:
        identity = MemberIdentity(member_id=self.member_id, group_instance_id=self.instance)
        request = LeaveGroupRequest(group_id=GROUP, members=[identity])
        answer = await self.ask(client, request, 5)
        code = ErrorCode(answer.error_code)
        if code is E.NONE:
            code = ErrorCode(answer.members[0].error_code)
        if code is E.NONE:
            self.restart()
            self.left = True


class Operator(Talker):
    """Commits for a group without members, and deletes what there is."""

    async def run(self) -> None:
        """Do everything once, one thing after the other."""
        try:
            async with self.story.connect() as client:
                await self._work(client)
        except Gone:
            pass

    async def _work(self, client: Any) -> None:
        number = self.story.draws.randrange(1000)
        for topic in (ORDERS, CARTS):
            for partition in (0, 1):
                await self.commit(client, (SIMPLE, topic, partition), number + partition)
        await self._forget(
            client,
            [(SIMPLE, ORDERS, 0)],
            offset_delete(SIMPLE, ORDERS),
            0,
            lambda answer: answer.error_code or answer.topics[0].partitions[0].error_code,
        )
        await self._forget(
            client,
            self.book.places_of(SIMPLE, CARTS),
            delete_topic(CARTS)(None, 5),  # type: ignore[arg-type]
            5,
            lambda answer: answer.responses[0].error_code,
        )
        await self.commit(client, (SIMPLE, ORDERS, 1), number + 7)
        await self._forget(
            client,
            self.book.places_of(SIMPLE),
            DeleteGroupsRequest(groups_names=[SIMPLE]),
            2,
            lambda answer: answer.results[0].error_code,
        )
        await self.commit(client, (SIMPLE, ORDERS, 0), number + 9)

    async def _forget(
        self, client: Any, places: Iterable[Place], request: Any, version: int, code_of: Any
    ) -> None:
        places = list(places)
        for place in places:
            self.book.asked(place, None)
        if code_of(await self.ask(client, request, version)) == E.NONE:
            for place in places:
                self.book.answered(place, None)


class Story:
    """Everything that happens in one run.

    Attributes:
        operations: numbers of the disk operations on ``__consumer_offsets`` of the first life.
        starts: how often the broker was started.
    """

    def __init__(self, sim: Simulation, case: Case) -> None:
        self.world = World(sim)
        self.case = case
        self.book = Book()
        self.draws = sim.random("story")
        self.readers = [Reader(self, "one"), Reader(self, "two"), Reader(self, "three", "i")]
        self.operator = Operator(self)
        self.operations: list[int] = []
        self.starts = 0
        self._offset = 0
        self._topic_id = ""

    def next_offset(self, partition: int) -> int:
        """Return an offset that nobody has committed before; they only grow."""
        del partition
        self._offset += 1
        return self._offset

    def connect(self) -> Any:
        """Open a connection, or find the broker gone."""
        return _Connection(self.world)

    # ---------------------------------------------------------------------------------- lives
    async def tell(self) -> None:
        """Let members work until the machine dies, look, let them go on, stop, and look again."""
        twice = self.case.kind == "power twice"
        crash_at = self.case.operation if not self.case.kind.startswith("none") else None
        await self._live(crash_at, self._first_days)
        if twice:
            await self._live(self.draws.randint(1, 120), self._look)
        await self._live(None, self._later_days)
        await self._live(None, self._look)
        if crash_at is None:
            assert self.book.counts["commits"] > 20
            assert self.book.counts["deletions"] > 5
            assert self.book.counts["assignments"] > 4

    async def _live(self, crash_at: int | None, days: Any) -> None:
        """Run a broker until what there is to do is done, or the machine dies."""
        self.starts += 1
        machine = self.world.machine
        machine.fs.faults = DiskFaults(crash_at=crash_at)
        config = self.world.config(
            group=CONFIG, storage=StorageConfig(durability=self.case.durability)
        )
        run = Running(BrokerTree(config, machine.host), machine.host)
        is_up, is_over = trio.Event(), trio.Event()

        async def program(_: Any) -> None:
            async with trio.open_nursery() as inner:
                await inner.start(run.tree.run)
                is_up.set()

        async def serve() -> None:
            try:
                await machine.run(program)
            finally:
                is_up.set()
                is_over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await is_up.wait()
            if machine.fs.alive and not is_over.is_set():
                try:
                    await days(run)
                except BaseException:
                    machine.power_off()  # a broker that serves does not end by itself
                    raise
            if machine.fs.alive:
                run.tree.request_stop()
            await is_over.wait()
        if self.starts == 1:
            self.operations = [
                operation.number
                for operation in machine.fs.history
                if self._topic_id and self._topic_id in operation.path
            ]
        kill = self.case.kind.startswith("kill") or self.case.durability is Durability.OS
        self.world.machine = machine.restart_process() if kill else machine.power_on()

    async def _first_days(self, run: Running) -> None:
        try:
            async with self.connect() as client:
                for topic, partitions in ((ORDERS, PARTITIONS), (CARTS, 2)):
                    await self.operator.ask(client, create(topic, partitions), 7)
                await self.operator.commit(client, (SIMPLE, ORDERS, 0), 1)
        except Gone:
            return
        routed = run.state.router.by_name.get(OFFSETS_TOPIC_NAME)
        self._topic_id = str(routed.topic_id) if routed is not None else ""
        first, _, static = self.readers
        await self._work(self.operator.run, rounds=2)
        static.restart()
        await self._work(rounds=1)
        await trio.sleep(SHORTENING_SECONDS)
        await self._work(rounds=1, leaving=[first])
        await self._work(self.operator.run, rounds=1)

    async def _work(
        self,
        *others: Callable[[], Awaitable[None]],
        rounds: int,
        leaving: Iterable[Reader] = (),
    ) -> None:
        """Let all readers, and others, work at the same time."""
        async with trio.open_nursery() as nursery:
            for reader in self.readers:
                nursery.start_soon(partial(reader.run, rounds, leaves=reader in leaving))
            for other in others:
                nursery.start_soon(other)

    async def _later_days(self, run: Running) -> None:
        await self._look(run)
        with trio.move_on_after(SETTLE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.operator.run)
                for reader in self.readers:
                    nursery.start_soon(partial(reader.run, 2, until=self._is_settled))
        if not self._is_settled():
            raise Violation(f"the group does not settle: {self.readers}")
        await self._work(rounds=1, leaving=self.readers)
        if not all(reader.left for reader in self.readers):
            raise Violation("somebody could not leave")

    def _is_settled(self) -> bool:
        """Whether every partition has a reader, all of them in one generation."""
        owned = sorted(partition for reader in self.readers for partition in reader.owned)
        generations = {reader.generation for reader in self.readers}
        return owned == list(range(PARTITIONS)) and len(generations) == 1

    async def _look(self, run: Running) -> None:
        """Compare what the coordinator knows with what was promised."""
        coordinator = run.state.coordinator
        assert await coordinator.load_group(GROUP) is E.NONE
        machine = coordinator.committed(GROUP)

        def found(place: Place) -> int | None:
            group, topic, partition = place
            if machine is None:
                return None
            value = machine.fetch(group, TopicName(topic), partition)
            return None if value is None else value.offset

        self.book.check_offsets(found)
        group = None if machine is None else machine._groups.get(GROUP)
        if group is None or group.stored is None:
            self.book.check_generation(GROUP, None)
            return
        stored = group.stored
        self.book.check_generation(
            GROUP,
            Generation(
                stored.generation,
                {m.member_id: partitions_of(m.assignment) for m in stored.members},
            ),
        )
        if all(reader.left for reader in self.readers) and stored.members:
            raise Violation(f"all have left, and {stored} is there")


class _Connection:
    """A connection to the broker; entering it finds that there may be none."""

    def __init__(self, world: World) -> None:
        self._opened = world.connect()

    async def __aenter__(self) -> Any:
        try:
            with trio.move_on_after(CONNECT_SECONDS):  # nobody answers for a dead machine
                return await self._opened.__aenter__()
        except OSError:
            pass
        raise Gone

    async def __aexit__(self, *error: object) -> Any:
        return await self._opened.__aexit__(*error)


def run_case(case: Case) -> Story:
    """Run one case.

    Raises:
        Violation: the coordinator broke a promise.
    """
    stories: list[Story] = []

    async def main(sim: Simulation) -> None:
        stories.append(Story(sim, case))
        await stories[0].tell()

    result = simulate(main, case.seed, max_seconds=SECONDS_MAX, max_steps=STEPS_MAX)
    try:
        result.unwrap()
    except BaseException as error:
        error.add_note(f"python -m tests.simulation.group_sweep --case '{case}'")
        raise
    return stories[0]
