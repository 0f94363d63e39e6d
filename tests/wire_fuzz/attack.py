"""One round: a broker in simulation, honest clients, attackers, and what must hold afterwards.

A round follows from its seed alone. Attackers draw requests (`requests`), change them (`mutation`)
and send them whole, in pieces, or several at a time; answers are judged by `oracle`. Beside them an
honest producer and an honest group go on with their work. When the attackers are done:

- no boundary of the task tree has caught anything;
- nothing is held for clients who are gone;
- the broker stops in order, and its logs are sound to the last byte;
- a broker that starts on the same disk knows the same topics, logs and committed offsets.
"""

from __future__ import annotations

import logging
import random
import struct
import traceback
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from tests.broker.harness import Client, Running, make_batch, open_client, running
from tests.wire_fuzz import oracle
from tests.wire_fuzz.honest import honest_group, honest_producer
from tests.wire_fuzz.mutation import Frame, Mutator, header
from tests.wire_fuzz.requests import RequestMaker, World
from tests.wire_fuzz.scenery import build_scenery, config_under_attack
from tests.wire_fuzz.tokens import tokens_of
from trio_broker.broker.handlers.table import SERVED
from trio_broker.cli.log_tools import find_replicas
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.storage.inspect import inspect_batches, verify_replica
from trio_broker.testing.brokers import DATA_DIRECTORY
from trio_broker.testing.memory import FAULTLESS
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.frames import FrameSplitter

if TYPE_CHECKING:
    from collections.abc import Iterator


PROBE = 0x0BADCAFE
#: APIs whose requests may wait for others, as long as they ask.
_MAY_WAIT = {ApiKey.FETCH, ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP, ApiKey.PRODUCE}
#: How long an answer of any other API may take, in seconds of the simulation.
_SECONDS = 45.0
_RECENT = 12


@attrs.define
class Tally:
    """What was sent and what came of it, over all rounds.

    Attributes:
        sent: requests by API.
        legal: those among them that had to be answered.
        outcomes: how many were answered, closed on, waited.
        versions: (API, version) pairs that were answered at least once.
        codes: (API, error code) pairs met.
        largest: the largest answer of each API.
    """

    sent: Counter[str] = attrs.field(factory=Counter)
    legal: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    versions: set[tuple[str, int]] = attrs.field(factory=set)
    codes: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    largest: dict[str, int] = attrs.field(factory=dict)


@attrs.define
class Sent:
    """A request on its way."""

    frame: Frame
    api_key: int
    version: int
    correlation_id: int
    message: Any

    def __str__(self) -> str:
        text = repr(self.message)
        return (
            f"{APIS[self.api_key].name} {self.version} {self.frame.done or 'as it is'} "
            f"{text if len(text) < 600 else text[:600] + '...'} {self.frame.data[:3000].hex()}"
        )


@attrs.define
class Attack:
    """What attackers of one round share."""

    world: World
    tally: Tally
    recent: list[str] = attrs.field(factory=list)
    _correlation_id: int = 1000

    def next_correlation_id(self) -> int:
        self._correlation_id += 1
        return self._correlation_id

    def note(self, sent: Sent) -> None:
        self.recent.append(str(sent))
        del self.recent[:-_RECENT]


class Attacker:
    """One connection after the other, until its requests are used up."""

    def __init__(self, attack: Attack, machine: SimMachine, chance: random.Random) -> None:
        self.attack = attack
        self.machine = machine
        self.chance = chance
        self.maker = RequestMaker(attack.world, chance)
        self.mutator = Mutator(chance)

    async def run(self, requests: int) -> None:
        left = requests
        while left > 0:
            async with open_client(self.machine.network, ("server", 9092)) as client:
                for _ in range(self.chance.choice((1, 3, 10, 40))):
                    burst = self.chance.choice((1, 1, 1, 1, 1, 1, 2, 8))
                    left -= burst
                    if left <= 0 or not await self._exchange(client, burst):
                        break

    def _draw(self) -> Sent:
        keys = tuple(SERVED)
        api_key = self.chance.choice((*keys, ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.JOIN_GROUP))
        api = SERVED[api_key]
        version = self.chance.randint(api.min_version, api.max_version)
        message = self.maker.message(api_key, version)
        body = tokens_of(message, version)
        correlation_id = self.attack.next_correlation_id()
        frame = self.mutator.frame(api_key, version, correlation_id, body)
        return Sent(frame, api_key, version, correlation_id, message)

    async def _exchange(self, client: Client, burst: int) -> bool:
        """Send some requests and a probe; return whether the connection is still good."""
        sent = [self._draw() for _ in range(burst)]
        for one in sent:
            self.attack.note(one)
            self.attack.tally.sent[APIS[one.api_key].name] += 1
            self.attack.tally.legal[APIS[one.api_key].name] += one.frame.is_legal
        probe = header(ApiKey.API_VERSIONS, 0, PROBE, is_flexible=False)
        data = [one.frame.data for one in sent] + [struct.pack(">i", len(probe)) + probe]
        try:
            await self._send(client, data)
        except trio.BrokenResourceError:
            pass  # closed before all of it was sent
        except trio.TooSlowError:
            for one in sent:  # it does not read while we do not, and may give up
                one.frame.is_legal = False
        outcome = await self._receive(client, sent)
        self.attack.tally.outcomes[outcome] += 1
        return outcome == "answered"

    async def _send(self, client: Client, data: list[bytes]) -> None:
        joined = b"".join(data)
        style = self.chance.random()
        if style < 0.6:
            await client.send_bytes(joined)
            return
        if style < 0.8:
            pieces = data
        else:
            cuts = sorted(self.chance.randrange(len(joined)) for _ in range(6))
            pieces = [
                joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True) if b > a
            ]
        for piece in pieces:
            await client.send_bytes(piece)
            if self.chance.random() < 0.5:
                await trio.sleep(self.chance.choice((0.0, 0.001, 0.5)))

    async def _receive(self, client: Client, sent: list[Sent]) -> str:
        """Read answers until that of the probe; judge each."""
        waiting = {one.correlation_id: one for one in sent}
        in_step = all(one.frame.is_whole for one in sent)
        may_wait = (
            not in_step
            or any(
                one.api_key in _MAY_WAIT or one.frame.content[:2] not in _known_keys()
                for one in sent
            )
            or any(int.from_bytes(one.frame.content[:2], "big") in _MAY_WAIT for one in sent)
        )
        last = 0
        patience = self.chance.choice((0.2, 2.0, _SECONDS)) if may_wait else _SECONDS
        while True:
            frame = None
            with trio.move_on_after(patience) as scope:
                frame = await _next_frame(client)
            if scope.cancelled_caught:
                if may_wait:
                    return "waits"
                raise AssertionError(f"neither answered nor closed: {_shown(waiting.values())}")
            if frame is None:
                break
            correlation_id = int.from_bytes(frame[:4], "big", signed=True)
            if correlation_id == PROBE:
                self._all_answered(waiting.values(), in_step)
                return "answered"
            one = waiting.pop(correlation_id, None)
            if one is None:
                if in_step and not any(w.frame.done for w in sent):
                    raise AssertionError(f"an answer to nothing: {frame[:100].hex()}")
                continue
            if correlation_id < last:
                raise AssertionError(f"answers out of order: {correlation_id} after {last}")
            last = correlation_id
            self._judge(one, frame)
        self._closed(sent, waiting)
        return "closed"

    def _all_answered(self, left: Any, in_step: bool) -> None:
        for one in left:
            is_silent = one.api_key == ApiKey.PRODUCE
            if in_step and one.frame.is_legal and not (is_silent and one.message.acks == 0):
                raise AssertionError(f"no answer, but to what came after: {one}")

    def _closed(self, sent: list[Sent], waiting: dict[int, Sent]) -> None:
        """The connection was closed: by something illegal, or a Produce without an answer."""
        for one in sent:
            if not one.frame.is_legal:
                return
            if one.api_key == ApiKey.PRODUCE and one.message.acks == 0:
                return
        raise AssertionError(f"closed on legal requests: {_shown(waiting.values())}")

    def _judge(self, one: Sent, frame: bytes) -> None:
        api_key = int.from_bytes(one.frame.content[:2], "big", signed=True)
        version = int.from_bytes(one.frame.content[2:4], "big", signed=True)
        api = SERVED.get(api_key)
        if api is None:
            raise AssertionError(f"an API that is not served was answered: {one}")
        if not api.min_version <= version <= api.max_version:
            if api_key != ApiKey.API_VERSIONS:
                raise AssertionError(f"a version that is not served was answered: {one}")
            version = 0
        _, body = oracle.read_answer(api_key, version, frame)
        tally, name = self.attack.tally, APIS[api_key].name
        tally.versions.add((name, version))
        tally.largest[name] = max(tally.largest.get(name, 0), len(frame))
        for _, code in oracle.error_codes(body):
            tally.codes[name, getattr(code, "name", str(code))] += 1
        self._learn(api_key, body)

    def _learn(self, api_key: int, body: Any) -> None:
        """Remember what there is now, so that later requests can be about it."""
        world = self.attack.world
        if api_key == ApiKey.JOIN_GROUP and body.member_id:
            group_id = self.chance.choice(("readers", "g", "group-1", "joining"))
            world.members.append((group_id, body.member_id, body.generation_id))
            del world.members[:-20]
        elif api_key == ApiKey.INIT_PRODUCER_ID and body.producer_id >= 0:
            world.producers.append((body.producer_id, body.producer_epoch))
            del world.producers[:-8]
        elif api_key == ApiKey.CREATE_TOPICS:
            for topic in body.topics:
                topic_id = getattr(topic, "topic_id", None)
                if not topic.error_code.value and topic_id is not None and len(world.topics) < 30:
                    world.topics[topic.name] = topic_id


def _known_keys() -> set[bytes]:
    return {struct.pack(">h", key) for key in SERVED}


def _shown(left: Any) -> str:
    return "\n  ".join(str(one) for one in left)


async def _next_frame(client: Client) -> bytes | None:
    """Return the next answer; None if the connection is closed."""
    splitter: FrameSplitter = client._splitter
    while (frame := splitter.next_frame()) is None:
        try:
            count = await client.stream.receive_into(splitter.writable())
        except trio.BrokenResourceError:
            return None
        if not count:
            return None
        splitter.received(count)
    return bytes(frame)


class _Errors(logging.Handler):
    """Keeps what the broker logs as an error, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        self.found.append(text)


@contextmanager
def _errors_kept() -> Iterator[list[str]]:
    handler = _Errors()
    logger = logging.getLogger("trio_broker")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def run_round(seed: int, tally: Tally, *, requests: int = 600, connections: int = 3) -> None:
    """Run one round.

    Raises:
        AssertionError: something does not hold; its notes say how to repeat the round.
    """
    oracle.load_readers()

    async def main(sim: Simulation) -> SimMachine:
        return await _round(sim, seed, tally, requests, connections)

    machine = simulate(main, seed, max_seconds=1e7, max_steps=5_000_000).unwrap()
    _check_logs(machine)


async def _round(
    sim: Simulation, seed: int, tally: Tally, requests: int, connections: int
) -> SimMachine:
    chance = random.Random(seed)
    internet = SimInternet(sim.streams, note=sim.note)
    internet.faults = NetworkFaults(window_bytes=chance.choice((1000, 65_536, 262_144)))
    machine = SimMachine(sim, "server", internet=internet, faults=FAULTLESS)
    clients = SimMachine(sim, "clients", internet=internet, faults=FAULTLESS)
    config = config_under_attack(chance)
    attack = Attack(World(now_ms=machine.wall.now_ms), tally)
    with _errors_kept() as errors:
        try:
            async with running(config, host=machine.host, reraise=False) as run:
                async with open_client(clients.network, ("server", 9092)) as client:
                    await build_scenery(client, attack.world)
                await _attack(run, clients, attack, chance, requests, connections)
                assert not run.state.supervisor.faults, run.state.supervisor.faults
                before = _stored(run)
            machine = machine.restart_process()
            async with running(config, host=machine.host, reraise=False) as run:
                after = _stored(run)
            assert before == after, f"before the restart {before}, after it {after}"
            assert not errors, errors
        except BaseException as error:
            for text in (*errors, "sent last:", *attack.recent):
                error.add_note(text)
            raise
    return machine


async def _attack(
    run: Running,
    clients: SimMachine,
    attack: Attack,
    chance: random.Random,
    requests: int,
    connections: int,
) -> None:
    async with trio.open_nursery() as honest:
        producer = await honest.start(honest_producer, clients)
        group = await honest.start(honest_group, clients)
        async with trio.open_nursery() as attackers:
            for _ in range(connections):
                attacker = Attacker(attack, clients, random.Random(chance.getrandbits(64)))
                attackers.start_soon(attacker.run, requests // connections)
        await producer.wait_for_rounds(3)
        await group.wait_for_rounds(3)
        honest.cancel_scope.cancel()
    await run.wait_idle()
    async with open_client(clients.network, ("server", 9092)) as client:
        answered = await client.produce(make_batch(b"still there"), topic="bystander")
        assert answered.error_code == 0, answered


def _stored(run: Running) -> dict[str, Any]:
    """What a restart must not change."""
    logs = {}
    for topic in run.state.router.by_name.values():
        for replica in topic.replicas:
            if replica is not None and not topic.is_internal:
                logs[topic.name, replica.partition] = (
                    replica.log.log_start_offset,
                    replica.log.log_end_offset,
                )
    offsets = {}
    for summary in run.state.coordinator.summaries():
        for topic_name, partitions in summary.offsets.items():
            for partition, value in partitions.items():
                if value.expire_timestamp_ms >= 0:  # Kafka's record then has no room for the id
                    value = value._replace(topic_id=ZERO_TOPIC_ID)
                offsets[summary.group_id, topic_name, partition] = value
    configs = {
        name: topic.configs for name, topic in run.state.controller.image.topics_by_name.items()
    }
    return {"logs": logs, "offsets": offsets, "configs": configs}


def _check_logs(machine: SimMachine) -> None:
    """Every byte that is stored must be part of a sound batch, and be found by the indexes."""
    for directory in find_replicas(machine.fs, DATA_DIRECTORY):
        faults = list(verify_replica(machine.fs, directory))
        assert not faults, faults
        for row in inspect_batches(machine.fs, directory):
            assert row.header is not None and not row.fault, row
            assert row.header.record_count == row.header.last_offset_delta + 1, row
