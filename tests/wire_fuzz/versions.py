"""Versions of an API are encodings of the same thing: what is asked and answered must be the same.

For two neighbouring versions of an API the same requests are drawn, with nothing in them that one
of the two cannot say, and put to two brokers in the same simulation seed: one gets that API's
requests in the older version, the other in the newer. All answers must agree in every field that
both have; the answers of all *other* APIs, asked in between in their newest versions, must be equal
altogether, so that what a request does cannot depend on its version either.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import trio

from tests.broker.harness import Client, open_client, running
from tests.wire_fuzz.requests import RequestMaker, World
from tests.wire_fuzz.scenery import build_scenery, config_under_attack
from trio_broker.broker.handlers.table import SERVED
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.testing.memory import FAULTLESS
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fields import Field, Kind
from trio_broker.wire.message import Message, Struct, decode_response
from trio_broker.wire.messages.list_offsets import ListOffsetsPartition
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Fields that say in later versions what others say in earlier ones.
_EITHER = {
    "Fetch": {"topic", "topic_id"},
    "Produce": {"name", "topic_id"},
    "OffsetCommit": {"name", "topic_id"},
    "OffsetFetch": {"group_id", "topics", "groups", "name", "topic_id"},
    "FindCoordinator": {"key", "coordinator_keys"},
    "LeaveGroup": {"member_id", "members"},
    "DeleteTopics": {"topic_names", "topics"},
}
#: Since when ListOffsets knows timestamps with a meaning of their own.
_SINCE = {-3: 7, -4: 8, -5: 9, -6: 11}
#: What a client of one of the versions means by an error code, where the versions say it otherwise.
_UNKNOWN = {3: 3, 100: 3}
#: (API, newer version): codes that only the newer one has, and what the older one has for them.
_CODES = {
    ("OffsetCommit", 9): {69: 22},  # GROUP_ID_NOT_FOUND (KIP-848)
    ("DescribeGroups", 6): {69: 0},  # KIP-1043
}
#: Fields of answers that differ on purpose, by (API, newer version).
_DIFFERENT = {
    ("Produce", 7): "zstd (KIP-110)",
    ("JoinGroup", 4): "a member needs an id",
    ("JoinGroup", 9): "a leader that came back does not assign",
    ("FindCoordinator", 4): "many at once",
    ("OffsetFetch", 8): "many at once",
    ("OffsetFetch", 10): "an unknown id is an error, an unknown name is not",
    ("SyncGroup", 5): "a member has to say which protocol it means",
    ("ApiVersions", 3): "a client has to say what it is",
    ("LeaveGroup", 3): "many at once",
    ("DeleteTopics", 6): "by id",
    ("ListConfigResources", 1): "other types than client metrics",
}


class Difference(AssertionError):
    """Two versions of an API do not say the same."""


def pairs() -> list[tuple[int, int]]:
    """Return (API, newer version) of all neighbouring versions that must agree."""
    return [
        (key, version)
        for key, api in SERVED.items()
        for version in range(api.min_version + 1, api.max_version + 1)
        if (APIS[key].name, version) not in _DIFFERENT
    ]


class CommonMaker(RequestMaker):
    """Draws requests that two versions of an API can both express."""

    def __init__(self, world: World, chance: random.Random, api_key: int, newer: int) -> None:
        super().__init__(world, chance)
        self.api_key, self.newer = api_key, newer
        self._either = _EITHER.get(APIS[api_key].name, set())
        self.names = {topic_id: name for name, topic_id in world.topics.items()}

    def common(self, api_key: int) -> Message:
        """Draw a request; of the API that is compared, one that both versions can carry."""
        if api_key != self.api_key:
            message = self.message(api_key, SERVED[api_key].max_version)
        else:
            message = self.message(api_key, self.newer)
            self._make_common(message)
        return message

    def _make_common(self, value: Struct) -> None:
        for name, field in type(value).__kafka_fields__.items():
            older, newer = field.is_in(self.newer - 1), field.is_in(self.newer)
            if older and newer:
                found = getattr(value, name)
                if found is None and not field.is_nullable_in(self.newer - 1):
                    setattr(value, name, self._instead_of_null(field))
                elif isinstance(found, list):
                    for inner in found:
                        if isinstance(inner, Struct):
                            self._make_common(inner)
                elif isinstance(found, Struct):
                    self._make_common(found)
            elif (older or newer) and name not in self._either:
                setattr(value, name, field.missing_value)
        self._avoid_what_is_new(value)
        if "topic_id" in self._either and "topic_id" in type(value).__kafka_fields__:
            self._name_both(value)

    def _avoid_what_is_new(self, value: Any) -> None:
        """Replace values that mean something in the newer version only."""
        older = self.newer - 1
        if isinstance(value, ListOffsetsPartition):
            if value.timestamp < -2 and _SINCE.get(value.timestamp, 99) > older:
                value.timestamp = -1
        elif isinstance(value, MetadataRequest) and older == 0 and not value.topics:
            value.topics = [MetadataRequestTopic(name="orders")]  # empty means all there
        elif isinstance(value, MetadataRequestTopic) and older < 12:
            value.topic_id = ZERO_TOPIC_ID
            value.name = value.name or "nope"

    def _instead_of_null(self, field: Field) -> Any:
        if field.is_array:
            return []
        return field.element.zero if isinstance(field.element, Kind) else None

    def _name_both(self, value: Any) -> None:
        """Let a topic be named by name and by id, the same one."""
        name_field = "topic" if "topic" in type(value).__kafka_fields__ else "name"
        if self.newer >= _first_with_ids(self.api_key):
            name = self.names.get(value.topic_id)
            if name is None:
                name, value.topic_id = "nope!", ZERO_TOPIC_ID  # which nobody can have created
            setattr(value, name_field, name)


def _first_with_ids(api_key: int) -> int:
    return {ApiKey.FETCH: 13, ApiKey.PRODUCE: 13, ApiKey.OFFSET_COMMIT: 10}.get(api_key, 10)


def compare(api_key: int, newer: int, seed: int, *, requests: int = 40) -> int:
    """Put the same requests to two brokers, in two versions; return how many were compared.

    Raises:
        Difference: the answers do not agree; says in what.
    """
    runs = []
    for version in (newer - 1, newer):

        async def main(sim: Simulation, version: int = version) -> list[tuple[Message, int, Any]]:
            return await _transcript(sim, seed, api_key, version, newer, requests)

        runs.append(simulate(main, seed, max_seconds=1e6).unwrap())
    older_run, newer_run = runs
    for number, (one, other) in enumerate(zip(older_run, newer_run, strict=True)):
        assert one[0] == other[0], f"not the same request: {one[0]} and {other[0]}"
        versions = (one[1], other[1])
        where = f"{APIS[one[0].api_key].name} {versions}"
        found = list(_differences(one[2], other[2], *versions, where, newer))
        if found:
            raise Difference(
                f"{APIS[api_key].name} {newer - 1} and {newer}, seed {seed}, request {number}: "
                f"{found[0]}\n  {one[0]!r:.2000}\n  {one[2]!r:.2000}\n  {other[2]!r:.2000}"
            )
    return len(older_run)


async def _transcript(
    sim: Simulation, seed: int, api_key: int, version: int, newer: int, requests: int
) -> list[tuple[Message, int, Any]]:
    chance = random.Random(seed)
    internet = SimInternet(sim.streams, note=sim.note)
    internet.faults = NetworkFaults(latency_seconds=(0.0, 0.0), fragment_rate=0.0)
    machine = SimMachine(sim, "server", internet=internet, faults=FAULTLESS)
    clients = SimMachine(sim, "clients", internet=internet, faults=FAULTLESS)
    world = World(now_ms=lambda: 1_704_067_200_000)
    found: list[tuple[Message, int, Any]] = []
    async with running(config_under_attack(chance), host=machine.host) as run:
        async with open_client(clients.network, ("server", 9092)) as client:
            await build_scenery(client, world)
            maker = CommonMaker(world, chance, api_key, newer)
            for _ in range(requests):
                key = chance.choice((api_key, api_key, chance.choice(_LOOKERS)))
                message = maker.common(key)
                if not _is_fit(message):
                    continue
                used = version if key == api_key else SERVED[key].max_version
                found.append((message, used, await _ask(client, message, used)))
        assert run.state.supervisor.faults == {}
    return found


#: What is asked in between, to see what the others have done.
_LOOKERS = (
    ApiKey.FETCH, ApiKey.LIST_OFFSETS, ApiKey.METADATA, ApiKey.OFFSET_FETCH,
    ApiKey.DESCRIBE_GROUPS, ApiKey.LIST_GROUPS, ApiKey.DESCRIBE_CONFIGS, ApiKey.DESCRIBE_PRODUCERS,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS, ApiKey.DESCRIBE_LOG_DIRS,
)  # fmt: skip


def _is_fit(message: Any) -> bool:
    """Whether a request is answered, and soon."""
    if message.api_key == ApiKey.PRODUCE:
        return bool(message.acks)
    if message.api_key == ApiKey.FETCH:
        message.max_wait_ms = min(message.max_wait_ms, 50)
        message.replica_state = None
    if message.api_key == ApiKey.JOIN_GROUP:
        message.rebalance_timeout_ms = min(message.rebalance_timeout_ms, 100)
        if message.session_timeout_ms <= 1_800_000:  # else it is refused
            message.session_timeout_ms = min(message.session_timeout_ms, 10_000)
    return True


async def _ask(client: Client, message: Any, version: int) -> Any:
    await client.send(message, version)
    answer = None
    with trio.move_on_after(24):
        frame = await client.receive_frame()
        assert frame is not None, f"closed on {message!r:.2000} in version {version}"
        answer = decode_response(APIS[message.api_key].response_type, version, frame)[1]
    assert answer is not None, f"no answer to {message!r:.2000} in version {version}"
    return answer


def _differences(
    one: Any, other: Any, older: int, newer: int, where: str, compared: int
) -> Iterator[str]:
    """Yield where two answers differ in what both versions can say."""
    if isinstance(one, Struct):
        for name, field in type(one).__kafka_fields__.items():
            if field.is_in(older) and field.is_in(newer):
                values = (getattr(one, name), getattr(other, name))
                if name == "error_code":
                    values = _codes(where, newer, values) if older != newer else values
                yield from _differences(*values, older, newer, f"{where}.{name}", compared)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)}"
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from _differences(a, b, older, newer, f"{where}[{number}]", compared)
    elif one != other and not (one in {None, ""} and other in {None, ""}):
        yield f"{where}: {one!r:.200} and {other!r:.200}"


def _codes(where: str, newer: int, values: tuple[int, int]) -> tuple[int, int]:
    api = where.partition(" ")[0]
    meant = _CODES.get((api, newer), {})
    old, new = values
    return _UNKNOWN.get(old, old), _UNKNOWN.get(meant.get(new, new), meant.get(new, new))
