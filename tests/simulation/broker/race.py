"""Something strikes at every scheduling step of a busy moment: ``python -m tests...broker.race``.

The moment has queued produces on pipelining connections, fetches that are parked and fetches that
are woken, and two members in the middle of a rebalance: at most 400 task steps. At each of them,
in a run of its own, one of `KINDS` strikes, between one task's step and the next one's. Afterwards

- every request has had exactly one answer, or its connection has ended (I6);
- what was acknowledged is there, and is there after a restart too (I1, I2);
- nothing is left: tasks, files, bytes under way, and no boundary has taken a fault (I7 to I14).

    --kinds stop,delete   only these
    --every K             only every Kth step, from a drawn one on
    --case 'SEED KIND STEP'   one run, with its last steps; what a failure prints

The idea is Restate's, whose partition processor asserted when it was stopped while requests were
queued; a test at every step is what finds that.
"""

from __future__ import annotations

import argparse
import errno
import logging
import random
import sys
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from attrs import evolve

from tests.simulation.broker.witness import PATIENCE_SECONDS, Witness, settled
from trio_broker.config import BrokerConfig, Durability, StorageConfig, TopicConfig
from trio_broker.errors import ErrorCode
from trio_broker.records.build import Record, build_batch
from trio_broker.testing import invariants
from trio_broker.testing.brokers import DATA_DIRECTORY
from trio_broker.testing.sim.network import NetworkFaults
from trio_broker.testing.sim.run import Result, Simulation, simulate
from trio_broker.testing.swarm import Swarm
from trio_broker.testing.workload.operating import operate
from trio_broker.testing.workload.producing import produce_request
from trio_broker.testing.workload.world import World, run_world, wait_until_all_rests
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.testing.brokers import Life
    from trio_broker.testing.model import PartitionModel, TopicModel

KINDS = ("stop", "leave", "abort", "delete", "full disk", "broken disk", "kill", "power cut")
#: The busy moment is at most that long.
STEPS_MAX = 400
GROUP = "readers"
_JOIN_VERSION = 3  # which hands out member ids at once
_NAME = "orders"
#: More than all batches of the moment together.
_RELEASE_BYTES = 10_000


class Case(NamedTuple):
    """One run: what strikes at which step; a step of 0 is never reached."""

    seed: int
    kind: str
    step: int

    def __str__(self) -> str:
        return f"{self.seed} {self.kind.replace(' ', '-')} {self.step}"


def parse_case(text: str) -> Case:
    """Read what `Case.__str__` wrote."""
    seed, kind, step = text.split()
    return Case(int(seed), kind.replace("-", " "), int(step))


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        steps: of the moment, up to the last answer, where nothing has struck.
        has_struck: the step was reached.
        answered: requests that had their answer.
        cut_off: requests whose connection has ended instead.
    """

    steps: int
    has_struck: bool
    answered: int
    cut_off: int


def calm_swarm(draws: random.Random) -> Swarm:
    """Return the surroundings of the moment: only durability, schedule and latencies are drawn."""
    config = BrokerConfig(
        data_dir=DATA_DIRECTORY,
        listeners=("server:9092",),
        auto_create_topics=False,
        topic=TopicConfig(retention_ms=-1, file_delete_delay_ms=0),
        storage=StorageConfig(
            durability=draws.choice((Durability.FSYNC, *Durability)),
            shards_per_log_dir=draws.choice((1, 2)),
            ballast_bytes=0,
        ),
    )
    return Swarm(
        config=config,
        seconds=0.0,
        topics=1,
        producers=0,
        plain_producers=0,
        embedded_producers=0,
        consumers=0,
        embedded_consumers=0,
        committers=0,
        troubles=(),
        trouble_seconds=1.0,
        values_bytes_max=100,
        pause_seconds=0.0,
        topic_configs=({},),
        members=0,
        trimmers=0,
        alterers=0,
        network=NetworkFaults(latency_seconds=(0.0001, 0.0001)),
    )


# ----------------------------------------------------------------------------------------- clients


class Moment:
    """The busy moment: who asks what."""

    def __init__(self, world: World, topic: TopicModel) -> None:
        self._world = world
        self._topic = topic
        self._producers = [Witness(world, f"producer-{n}") for n in range(3)]
        self._parked = [Witness(world, f"parked-{n}") for n in range(2)]
        self._woken = Witness(world, "woken")
        self._leader = Witness(world, "leader")
        self._follower = Witness(world, "follower")
        self._batches = 0

    @property
    def witnesses(self) -> list[Witness]:
        """All of them."""
        return [*self._parked, *self.busy]

    @property
    def busy(self) -> list[Witness]:
        """Those who have their answers in a moment, if nothing strikes."""
        return [*self._producers, self._woken, self._leader, self._follower]

    async def prepare(self) -> None:
        """Connect everybody, and let one member have a group for itself."""
        for witness in self.witnesses:
            await witness.connect()

    async def make_group(self) -> str:
        """Let the leader join and sync; return its member id."""
        joined: list[Any] = []
        self._leader.ask(_join(""), _JOIN_VERSION, joined.append)
        await settled([self._leader])
        [answer] = joined
        self._leader.ask(_sync(answer), None, joined.append)
        await settled([self._leader])
        assert joined[1].error_code == 0, joined
        return str(answer.member_id)

    def begin(self, member_id: str) -> None:
        """Send everything at once."""
        for number, parked in enumerate(self._parked):
            parked.ask(self._fetch(number, min_bytes=_RELEASE_BYTES), None, _anything)
        self._woken.ask(self._fetch(0, min_bytes=1), None, _anything)
        self._follower.ask(_join(""), _JOIN_VERSION, partial(self._joined, self._follower))
        self._leader.ask(_join(member_id), _JOIN_VERSION, partial(self._joined, self._leader))
        for number, producer in enumerate(self._producers):
            for _ in range(3):
                self._produce(producer, self._topic.partitions[number % 2])

    async def release(self, life: Life) -> None:
        """Give those that are parked what they wait for, unless their topic is gone."""
        for partition in self._topic.partitions:
            if self._topic.is_deleted:
                return
            value = b"released".ljust(_RELEASE_BYTES, b".")
            now_ms = life.machine.wall.now_ms()
            partition.send([value], now_ms)
            assert life.broker is not None
            _, offset = await life.broker.produce_batch(
                _NAME, [Record(None, value, (), now_ms)], partition=partition.index
            )
            self._world.acknowledged(partition, offset, (value,), self._world.losses)

    def _fetch(self, partition: int, *, min_bytes: int) -> FetchRequest:
        part = FetchPartition(partition=partition, fetch_offset=0, partition_max_bytes=10**6)
        return FetchRequest(
            max_wait_ms=3_600_000,  # so whoever is not woken is never answered
            min_bytes=min_bytes,
            topics=[FetchTopic(topic=_NAME, topic_id=self._topic.topic_id, partitions=[part])],
        )

    def _produce(self, producer: Witness, partition: PartitionModel) -> None:
        self._batches += 1
        value = b"%s/%d" % (producer.name.encode(), self._batches)
        now_ms = self._world.server.machine.wall.now_ms()
        partition.send([value], now_ms)
        batch = build_batch([Record(None, value, (), now_ms)])
        request = produce_request([(partition, batch)], acks=-1, timeout_ms=30_000)
        producer.ask(request, None, partial(self._produced, partition, value))

    def _produced(self, partition: PartitionModel, value: bytes, answer: Any) -> None:
        [outcome] = answer.responses[0].partition_responses
        if outcome.error_code == ErrorCode.NONE:
            self._world.acknowledged(partition, outcome.base_offset, (value,), self._world.losses)

    def _joined(self, member: Witness, answer: Any) -> None:
        if answer.error_code == ErrorCode.NONE:
            member.ask(_sync(answer), None, _anything)
            beat = HeartbeatRequest(
                group_id=GROUP, member_id=answer.member_id, generation_id=answer.generation_id
            )
            member.ask(beat, None, _anything)


def _anything(_: Any) -> None:
    """Any answer will do."""


def _join(member_id: str) -> JoinGroupRequest:
    return JoinGroupRequest(
        group_id=GROUP,
        member_id=member_id,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=15_000,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=b"topics")],
    )


def _sync(joined: Any) -> SyncGroupRequest:
    """Assign something to everybody, if it is the leader that joined."""
    return SyncGroupRequest(
        group_id=GROUP,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        protocol_type="consumer",
        protocol_name=joined.protocol_name or None,
        assignments=[
            SyncGroupRequestAssignment(member_id=member.member_id, assignment=b"a")
            for member in joined.members
        ],
    )


# ----------------------------------------------------------------------------------------- strikes


class Striker(trio.abc.Instrument):
    """Counts the task steps of the moment, and strikes before one of them.

    Attributes:
        count: steps so far.
        struck: set when it has struck.
        fault: an exception that Trio would have hidden.
    """

    def __init__(self, step: int, strike: Callable[[], None]) -> None:
        self.count = 0
        self.has_struck = False
        self.fault: BaseException | None = None
        self._step = step
        self._strike = strike

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        """Count (called by Trio)."""
        self.count += 1
        if self.count == self._step:
            self.has_struck = True
            try:
                self._strike()
            except BaseException as error:  # noqa: BLE001 - raised again by the program
                self.fault = error


class Strike:
    """What strikes, and what has to be done about it afterwards."""

    def __init__(self, world: World, topic: TopicModel, nursery: trio.Nursery) -> None:
        self._world = world
        self._topic = topic
        self._nursery = nursery
        assert world.server.life is not None
        self._life: Life = world.server.life
        self._deleted = trio.Event()

    def now(self, kind: str, until_struck: trio.CancelScope) -> None:
        """Strike; synchronous, between two steps."""
        until_struck.cancel()
        server = self._world.server
        match kind:
            case "stop":
                server.ask_to_stop()
            case "leave":
                server.ask_to_stop(by_leaving=True)
            case "abort":
                server.cancel()
            case "kill":
                server.kill()
            case "power cut":
                self._world.cut_power()
            case "delete":
                self._topic.deletion_begun = True
                self._nursery.start_soon(self._delete)
            case "full disk":
                self._world.model.disk_was_full = True
                self._refuse(capacity_bytes=server.fs.used_bytes)
            case "broken disk":
                self._refuse(fail_from=(server.fs.operation_count + 1, errno.EIO))
                self._world.disk_lied(self._life)

    def _refuse(self, **faults: Any) -> None:
        fs = self._world.server.fs
        fs.faults = evolve(fs.faults, **faults)
        self._life.disk_failed_at = trio.current_time()

    async def _delete(self) -> None:
        broker = self._life.broker
        assert broker is not None
        await broker.delete_topic(_NAME)
        self._world.model.topic_gone(self._topic, trio.current_time())
        invariants.check_deleted(self._life, self._topic)
        self._deleted.set()

    async def see_through(self, kind: str) -> None:
        """Do what has to be done; afterwards a broker serves again."""
        world = self._world
        if kind in {"stop", "leave", "abort"}:
            await self._life.ended.wait()
        elif kind == "delete":
            await self._deleted.wait()
        elif kind in {"full disk", "broken disk"}:
            await trio.sleep(1.0)
            fs = world.server.fs
            fs.faults = evolve(fs.faults, capacity_bytes=None, fail_from=None)
        if kind in {"kill", "power cut"}:
            await world.start()

    async def wait_until_it_serves(self) -> Life:
        """Wait until every partition takes records again; return the life in which it does."""
        with trio.fail_after(2 * PATIENCE_SECONDS):
            if self._world.server.serving is None:
                self._world.server.new_process()
                await self._world.start()
            await operate(self._world)
            life = self._world.server.serving
            assert life is not None
            while any(log_dir.refusal for log_dir in life.state.log_dirs):  # noqa: ASYNC110
                await trio.sleep(0.25)
        return life


# --------------------------------------------------------------------------------------- the runs


async def run_case(case: Case, sim: Simulation) -> Outcome:
    """Be the program of one run.

    Raises:
        Violation: the broker broke a promise.
    """
    swarm = calm_swarm(sim.random("surroundings"))
    return await run_world(sim, swarm, partial(_play, case))


async def _play(case: Case, world: World) -> Outcome:
    await world.start()
    life = world.server.life
    assert life is not None and life.broker is not None
    world.model.creating.add(_NAME)
    topic_id = await life.broker.create_topic(_NAME, partitions=2)
    invariants.see_topics(world.model, life, trio.current_time())
    topic = world.model.by_id[topic_id]
    moment = Moment(world, topic)
    await moment.prepare()
    async with trio.open_nursery() as listeners:
        for witness in moment.witnesses:
            listeners.start_soon(witness.listen)
        member_id = await moment.make_group()
        strike = Strike(world, topic, listeners)
        with trio.CancelScope() as until_struck:
            striker = Striker(case.step, partial(strike.now, case.kind, until_struck))
            trio.lowlevel.add_instrument(striker)
            moment.begin(member_id)
            await settled(moment.busy)
        steps = striker.count
        trio.lowlevel.remove_instrument(striker)
        if striker.fault is not None:
            raise striker.fault
        if striker.has_struck:
            await strike.see_through(case.kind)
        life = await strike.wait_until_it_serves()
        await moment.release(life)
        await settled(moment.witnesses)
        for witness in moment.witnesses:
            witness.close()
        listeners.cancel_scope.cancel()
    await _look_at_what_is_left(world)
    return Outcome(
        steps,
        striker.has_struck,
        sum(witness.answered for witness in moment.witnesses),
        sum(witness.cut_off for witness in moment.witnesses),
    )


async def _look_at_what_is_left(world: World) -> None:
    """Check what is true of a broker that nobody asks for anything, and of what it leaves."""
    life = world.server.serving
    assert life is not None and world.before is not None
    await trio.sleep(30.0)  # members that have left are forgotten by then
    await wait_until_all_rests(life)
    invariants.audit(world.model, life, is_start=False)
    invariants.check_quiet(life, world.before, clients=0)
    invariants.check_directories(world.model, life)
    await world.stop()
    world.server.new_process()
    await world.start()
    await world.stop()


def run(case: Case, *, keep_trace: bool = False) -> Result[Outcome]:
    """Run one case."""
    return simulate(
        partial(run_case, case),
        case.seed,
        max_steps=30_000,
        max_seconds=2_000.0,
        keep_trace=keep_trace,
    )


def steps_of(seed: int) -> int:
    """Return how many steps the moment has when nothing strikes."""
    return run(Case(seed, "nothing", 0)).unwrap().steps


def cases(seed: int, *, kinds: tuple[str, ...] = KINDS, every: int = 1) -> Iterator[Case]:
    """Yield the cases of a sweep: each kind at each step, or at every so many of them."""
    steps = steps_of(seed)
    assert 0 < steps <= STEPS_MAX, f"the moment has {steps} steps"
    draws = random.Random(seed)
    for kind in kinds:
        for step in range(draws.randint(1, every), steps + 1, every):
            yield Case(seed, kind, step)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.broker.race")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--case")
    options = parser.parse_args(arguments)
    logging.getLogger("trio_broker").setLevel(logging.CRITICAL)
    if options.case:
        result = run(parse_case(options.case), keep_trace=True)
        for entry in result.entries[-200:]:
            print(entry)
        print(result.unwrap())
        return 0
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().randrange(10**9)
    began, count, steps, failures, answered, cut_off = perf_counter(), 0, 0, 0, 0, 0
    for case in cases(seed, kinds=tuple(options.kinds.split(",")), every=options.every):
        result = run(case)
        count, steps = count + 1, steps + result.steps
        if result.error is not None or result.value is None:
            failures += 1
            error = result.error
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            print(f"{type(error).__name__}: {str(error)[:300]}\n    --case '{case}'", flush=True)
        else:
            answered += result.value.answered
            cut_off += result.value.cut_off
    seconds = perf_counter() - began
    print(
        f"seed {seed}: {steps_of(seed)} steps, {count} runs, {failures} failures, {answered}"
        f" requests answered, {cut_off} cut off, {steps / seconds:.0f} steps/s, {seconds:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
