"""One run of the workload: clients and troubles, then calm, then a look at everything.

`run_workload` is what a fuzzer runs for each seed. The phases are those of TigerBeetle's simulator:
in the *safety* phase anything may happen and nothing acknowledged may be lost; in the *liveness*
phase all faults are over, and whatever is left has to come right by itself in bounded time.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import trio
from attrs import frozen

from trio_broker.errors import ErrorCode
from trio_broker.testing import invariants
from trio_broker.testing.brokers import Ending, Life, SimulatedBroker
from trio_broker.testing.invariants import Footprint
from trio_broker.testing.model import Model, Violation
from trio_broker.testing.sim.network import SimInternet
from trio_broker.testing.swarm import draw_swarm
from trio_broker.testing.workload.altering import Alterer
from trio_broker.testing.workload.committing import Committer
from trio_broker.testing.workload.consuming import Consumer, EmbeddedConsumer
from trio_broker.testing.workload.members import GroupModel, Member
from trio_broker.testing.workload.operating import LIVENESS_SECONDS, offline_replicas, operate
from trio_broker.testing.workload.producing import (
    EmbeddedProducer,
    IdempotentProducer,
    PlainProducer,
    Prober,
)
from trio_broker.testing.workload.sometimes import RARE, look_at_end, look_at_start
from trio_broker.testing.workload.topics import NAMES, TopicAdmin
from trio_broker.testing.workload.trimming import Trimmer
from trio_broker.testing.workload.troubles import Troublemaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from trio_broker.testing.model import PartitionModel
    from trio_broker.testing.sim.network import NetworkFaults
    from trio_broker.testing.sim.run import Simulation
    from trio_broker.testing.swarm import Swarm
    from trio_broker.testing.workload.caller import Caller

T = TypeVar("T")

#: Housekeeping looks at everything at least this often, and deletes what it saw the time before.
HOUSEKEEPING_SECONDS = 65.0
#: In interval mode, what is older than its interval and this is on the disk.
FLUSH_SLACK_SECONDS = 1.0
#: A system call that was slow when the disk became well comes back, or is given up, within this.
SLOW_CALL_SECONDS = 3.0
_LOOK_SECONDS = 0.25
#: No read of a resident takes longer, where nothing else goes on.
_READ_SECONDS = 2.0
#: About as much as consumers may have to read once all trouble is over.
_READ_BYTES = 1 << 20


#: Clients that end by themselves.
Writer: TypeAlias = IdempotentProducer | PlainProducer | Committer | Member | Trimmer | Prober


@frozen
class Summary:
    """What a run came to.

    Attributes:
        swarm: what was drawn.
        lives: of the broker.
        troubles: that happened.
        acknowledged: records.
        seen: how often each of the things happened that are rare; see `sometimes`.
    """

    swarm: Swarm
    lives: int
    troubles: int
    acknowledged: int
    seen: Counter[str]


class World:
    """A broker, its clients, and what is known.

    Attributes:
        sim: the run.
        swarm: what was drawn for it.
        server: the broker.
        model: what it has promised.
        callers: all connections of clients.
        over: set when clients shall end what they are at.
        calm_since: Trio time from which on there is no trouble; inf before.
        losses: how often something may have been lost that was acknowledged.
        disk_troubles: how many there have been.
        disk_changed_at: when (Trio time) the latest of them began or ended.
        seen: how often each of the rare things of `sometimes` happened.
    """

    def __init__(
        self, sim: Simulation, swarm: Swarm, nursery: trio.Nursery, violations: list[Violation]
    ) -> None:
        self.sim = sim
        self.swarm = swarm
        self.model = Model()
        self.callers: list[Caller] = []
        self.over = trio.Event()
        self.calm_since = float("inf")
        self.losses = 0
        self.disk_troubles = 0
        self.disk_changed_at = float("-inf")
        self.seen: Counter[str] = Counter()
        self.before: Footprint | None = None
        internet = SimInternet(
            sim.streams,
            faults=swarm.network,
            note=sim.note,
        )
        self.server = SimulatedBroker(sim, swarm.config, nursery=nursery, internet=internet)
        for directory in swarm.config.log_directories:
            self.server.fs.prepare_directory(directory)
        self.server.on_start.append(partial(self._checked, self._started))
        self.server.on_end.append(partial(self._checked, self._ended))
        self.violations = violations
        self._scope = nursery.cancel_scope
        self._previous: Life | None = None

    # ------------------------------------------------------------------------------ what clients do

    @property
    def is_over(self) -> bool:
        """Whether clients shall end what they are at."""
        return self.over.is_set()

    @property
    def had_losses(self) -> bool:
        """Whether anything may have been lost that was acknowledged."""
        return self.losses > 0

    def saw(self, what: str) -> None:
        """Take note that something rare has happened, one of `sometimes.RARE`."""
        assert what in RARE, what
        self.seen[what] += 1

    def saw_refusal(self, code: ErrorCode) -> None:
        """Take note of the code of a produce, if it is one of the rare ones."""
        if (what := f"refused with {code.name}") in RARE:
            self.saw(what)

    async def pause(self, draws: Random) -> None:
        """Pass the time a client has between two requests."""
        if self.swarm.pause_seconds:
            await trio.sleep(draws.expovariate(1 / self.swarm.pause_seconds))

    def some_partitions(self, draws: Random) -> list[PartitionModel]:
        """Draw partitions of topics that may be used; none if there are no topics now."""
        partitions = [p for topic in self.model.topics for p in topic.partitions]
        count = draws.choice((1, 1, 2, 3))
        return draws.sample(partitions, min(count, len(partitions)))

    def acknowledged(
        self, partition: PartitionModel, offset: int, values: tuple[bytes, ...], losses: int
    ) -> None:
        """Take note that records were acknowledged, by a life in which there were such losses."""
        if losses != self.losses and not partition.topic.was_always_durable:
            return
        self.model.acknowledged += len(values)
        for number, value in enumerate(values):
            partition.learn(offset + number, value, trio.current_time(), "acknowledged")

    def read(self, partition: PartitionModel, offset: int, value: bytes) -> None:
        """Take note of a record that was read."""
        if not self.model.was_sent(partition, value):
            raise Violation(f"I2 {partition}: nobody sent {value[:20]!r}, read at {offset}")
        partition.learn(offset, value, trio.current_time(), "read")

    # ------------------------------------------------------------------------------ lives and ends

    async def start(self) -> None:
        """Start the broker; it may fail to, if its disk does."""
        life = await self.server.start()
        if life.error is not None and self.calm_since <= trio.current_time():
            raise Violation(f"I10 the broker does not start: {life.error!r}") from life.error

    async def stop(self, *, by_leaving: bool = False) -> Life:
        """Stop the broker in order."""
        life = self.server.ask_to_stop(by_leaving=by_leaving)
        await life.ended.wait()
        return life

    def cut_power(self) -> None:
        """Cut the power, whether the broker runs or not."""
        before = self.server.life
        was_over = before is None or before.ended.is_set()
        was_on = self.server.fs.alive
        self.server.cut_power()
        if was_over and was_on and before is not None:
            self.model.power_lost_while_down(before)
            self.losses += 1

    def disk_lied(self, life: Life, below: str = "/") -> None:
        """Take note that an fsync may fail or hang from now on, in that directory."""
        life.lied_below.append(below)
        self.model.disk_lied(life)

    def _checked(self, check: Callable[[Life], None], life: Life) -> None:
        """Run a check where a broker might take its exception for something else."""
        try:
            check(life)
        except Violation as violation:
            self.violations.append(violation)
            self._scope.cancel()

    def _started(self, life: Life) -> None:
        if self.before is None:
            self.before = Footprint.of(life)
        previous, self._previous = self._previous, None
        if previous is not None and previous.was_clean and not previous.disk_failed:
            invariants.check_trusted(life, previous)
        invariants.audit(self.model, life, is_start=True)
        look_at_start(life, self.saw)

    def _ended(self, life: Life) -> None:
        self._previous = life
        interval_ms = self.swarm.config.storage.flush_interval_ms
        bound_seconds = interval_ms / 1000 + FLUSH_SLACK_SECONDS
        self.model.life_over(life, trio.current_time(), interval_bound_seconds=bound_seconds)
        if life.ending is Ending.POWER_CUT or life.disk_lied:
            self.losses += 1
        look_at_end(life, self.saw)
        invariants.check_end(life)


async def run_workload(sim: Simulation, swarm: Swarm | None = None) -> Summary:
    """Be the program of one seed.

    Raises:
        Violation: the broker broke a promise.
    """
    if swarm is None:
        swarm = draw_swarm(sim.random("swarm"))

    async def play(world: World) -> Summary:
        run = _Run(world)
        await run.safety_and_liveness()
        await run.end()
        return Summary(
            world.swarm,
            world.server.lives,
            run.troubles.count,
            world.model.acknowledged,
            world.seen,
        )

    return await run_world(sim, swarm, play)


async def run_world(sim: Simulation, swarm: Swarm, play: Callable[[World], Awaitable[T]]) -> T:
    """Put a world together, let something happen in it, and return what that came to.

    Raises:
        Violation: the first broken promise, whoever noticed it.
    """
    violations: list[Violation] = []
    played: list[T] = []
    try:
        async with trio.open_nursery() as nursery:
            played.append(await play(World(sim, swarm, nursery, violations)))
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        found = group.split(Violation)[0]
        if found is not None:
            violations.append(_first_of(found))
        if not violations:
            raise
    if violations:
        raise violations[0]
    return played[0]


def _first_of(group: BaseExceptionGroup[Violation]) -> Violation:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Violation)
    return error


class _Run:
    """The phases of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = world.server
        self.troubles = Troublemaker(world)
        self.admin = TopicAdmin(world, "admin")
        self.alterers = [Alterer(world, f"alterer-{n}") for n in range(world.swarm.alterers)]
        swarm = world.swarm
        count = world.sim.random("clients").randint
        group = GroupModel()
        self.writers: list[Writer] = [
            *(
                IdempotentProducer(world, f"producer-{n}", operations=count(3, 20))
                for n in range(swarm.producers)
            ),
            *(
                PlainProducer(world, f"plain-{n}", operations=count(3, 15))
                for n in range(swarm.plain_producers)
            ),
            *(
                Committer(world, f"group-{n}", operations=count(3, 15))
                for n in range(swarm.committers)
            ),
            *(
                Member(world, group, f"member-{n}", operations=count(1, 5))
                for n in range(swarm.members)
            ),
            *(
                Trimmer(world, f"trimmer-{n}", operations=count(1, 5))
                for n in range(swarm.trimmers)
            ),
            Prober(world, "prober"),
        ]
        self.consumers = [Consumer(world, f"consumer-{n}") for n in range(swarm.consumers)]
        self.server.residents += [
            EmbeddedProducer(world, f"resident-{n}", operations=count(3, 15)).run
            for n in range(swarm.embedded_producers)
        ]
        self.server.residents += [
            EmbeddedConsumer(world, f"reader-{n}").run for n in range(swarm.embedded_consumers)
        ]
        self._at_work: dict[str, None] = {}

    async def safety_and_liveness(self) -> None:
        """Let everything happen at once; then, without trouble, everything has to come right."""
        world = self.world
        await world.start()
        for name in NAMES[: world.swarm.topics]:
            await self.admin.insist_on_creating(name, partitions=1 + len(name) % 2)
        async with trio.open_nursery() as readers:
            for consumer in self.consumers:
                readers.start_soon(consumer.run)
            async with trio.open_nursery() as writers:
                for writer in self.writers:
                    self._at_work[writer.name] = None
                    writers.start_soon(self._work, writer)
                async with trio.open_nursery() as troubles:
                    troubles.start_soon(self.troubles.run)
                    for alterer in self.alterers:
                        troubles.start_soon(alterer.run)
                    if "delete" in world.swarm.troubles:
                        troubles.start_soon(TopicAdmin(world, "churn").churn)
                    await trio.sleep(world.swarm.seconds)
                    troubles.cancel_scope.cancel()
                self.troubles.heal()
                await trio.sleep(SLOW_CALL_SECONDS)
                await self.troubles.see_to_it_that_it_runs()
                await operate(self.world)
                world.calm_since = trio.current_time()
                for alterer in self.alterers:
                    await alterer.settle()
                world.over.set()
                await self._wait_until_all_is_well()
            for caller in world.callers:
                caller.check_silent()
            readers.cancel_scope.cancel()

    async def _work(self, writer: Writer) -> None:
        await writer.run()
        del self._at_work[writer.name]

    async def _wait_until_all_is_well(self) -> None:
        """I10: every partition is online, everything is written and read, in bounded time."""
        late = ["nobody has looked"]
        patience_seconds = LIVENESS_SECONDS + _transfer_seconds(self.world.swarm.network)
        deadline = trio.current_time() + patience_seconds
        while late:
            if trio.current_time() > deadline:
                raise Violation(f"I10 {patience_seconds:g} s after all trouble: {'; '.join(late)}")
            await trio.sleep(_LOOK_SECONDS)
            late = [f"{replica!r} ({replica.cause})" for replica in offline_replicas(self.server)]
            late += [f"{name} is still at work" for name in self._at_work]
            for consumer in self.consumers:
                late += consumer.is_behind()

    async def end(self) -> None:
        """Look at everything, stop, and look at what is left."""
        world, server = self.world, self.server
        assert world.before is not None and server.life is not None
        self.admin.close()
        await trio.sleep(HOUSEKEEPING_SECONDS)
        await wait_until_all_rests(server.life)
        invariants.audit(world.model, server.life, is_start=False)
        invariants.check_quiet(server.life, world.before, clients=0)
        invariants.check_retention(world.model, server.life)
        invariants.check_directories(world.model, server.life)
        if any(p.has_lost for topic in world.model.by_id.values() for p in topic.partitions):
            world.saw("records lost, as allowed")
        draws = world.sim.random("end")
        if draws.random() < 0.5:
            await self._promise_more()
        if draws.random() < 0.5:
            for topic in world.model.topics:
                await self.admin.insist_on_deleting(topic)
            self.admin.close()
            await trio.sleep(1.0)
            await wait_until_all_rests(server.life)
            invariants.check_quiet(server.life, world.before, clients=0)
            invariants.check_directories(world.model, server.life)
        await world.stop(by_leaving=draws.random() < 0.5)
        world.cut_power()
        await world.start()
        await world.stop()

    async def _promise_more(self) -> None:
        """Let acknowledgements wait for fsync: what was acknowledged before is on the disk too.

        Also what came a moment ago; all else is there by now.
        """
        await Prober(self.world, "late-prober").run()
        if await Alterer(self.world, "operator").promise_more():
            self.world.saw("promised more")
            self.world.cut_power()
            await self.world.start()


async def wait_until_all_rests(life: Life) -> None:
    """Wait for a moment in which no job of retention is under way, and no resident reads.

    During such a job, files have their new names already, and the log says what it said before.
    """
    state = life.state
    reads_until = trio.current_time() + _READ_SECONDS
    shards = [shard for log_dir in state.log_dirs for shard in log_dir.shards]
    while any(shard.changes.locked() for shard in shards) or (  # noqa: ASYNC110
        state.response_memory.used_bytes and trio.current_time() < reads_until
    ):
        await trio.sleep(_LOOK_SECONDS)


def _transfer_seconds(network: NetworkFaults) -> float:
    """Return what everything that may have to be read takes where a connection holds little."""
    _, latency_seconds = network.latency_seconds
    return _READ_BYTES / network.window_bytes * 2 * latency_seconds
