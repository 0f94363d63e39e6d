"""Requests of every API and version with plausible content, drawn from the declared messages.

Most of what is drawn exists in the `World`, some of it nearly, and some is as odd as the encoding
allows: a request is only as good as the code it gets to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import attrs

from tests.wire_fuzz.batches import broken_batch, sound_batch
from trio_broker.config_catalog import BROKER_CONFIGS, TOPIC_CONFIGS
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.api import APIS
from trio_broker.wire.fields import Field, Kind

if TYPE_CHECKING:
    import random

    from trio_broker.wire.message import Message, Struct

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
_TOPIC_CONFIG_NAMES = tuple(TOPIC_CONFIGS)
_BROKER_CONFIG_NAMES = tuple(BROKER_CONFIGS)


@attrs.define
class World:
    """What there is on the broker, for requests to be about.

    Attributes:
        topics: names with their ids; what is deleted stays, as it may in a client's memory.
        members: (group, member id, generation) of groups.
        producers: (producer id, epoch) with the next sequence for each partition.
        now_ms: civil time.
    """

    topics: dict[str, UUID] = attrs.field(factory=dict)
    members: list[tuple[str, str, int]] = attrs.field(factory=list)
    producers: list[tuple[int, int]] = attrs.field(factory=list)
    now_ms: Callable[[], int] = lambda: 1_700_000_000_000


_ODD_TEXTS = (
    "", " ", ".", "..", "a_b", "x" * 249, "x" * 250, "x" * 300, "ünïcode", "日本", "a\0b",
    "__consumer_offsets", "__transaction_state", "__cluster_metadata", "%s{0}", "-1", "é" * 127,
)  # fmt: skip
_HUGE_TEXTS = (
    "x" * 32_767, "\0" * 32_767, "'" * 20_000, "\\" * 32_000, "é" * 16_383, "日" * 10_922,
    ",".join(["1:1"] * 8_000), "9" * 5_000,
)  # fmt: skip
_GROUPS = ("readers", "simple", "empty", "joining", "g", "group-1", "group-2", "group-3")
_NEW_TOPICS = tuple(f"made-{number}" for number in range(12))
_CONFIG_VALUES = (
    "-1", "0", "1", "2", "1000", "100000", "1048576", str(INT32_MAX), str(INT64_MAX), "1e3", " 12 ",
    "９", "1_000", "9" * 5_000, "+1", "delete", "compact", "compact,delete", "delete,delete",
    "true",
    "false", "os", "fsync", "interval", "LogAppendTime", "CreateTime", "snappy", "producer", "",
    "0:0", "*", "1:1,2:2", "nan", "inf", "0.5", "\0",
)  # fmt: skip


class RequestMaker:
    """Draws requests."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self._oddities = 0.0
        self._null_rate = 0.0

    def message(self, api_key: int, version: int) -> Message:
        """Draw a request."""
        self._oddities = self.chance.choice((0.0, 0.0, 0.0, 0.02, 0.1, 0.25))
        self._null_rate = self.chance.choice((0.0, 0.05, 0.3))
        made: Any = self._struct(APIS[api_key].request_type, APIS[api_key].name, version)
        return made

    def _struct(self, kind: type[Struct], path: str, version: int) -> Struct:
        values = {}
        for name, field in kind.__kafka_fields__.items():
            if not field.is_in(version):
                values[name] = field.missing_value
                continue
            if field.tag is not None and self.chance.random() < 0.6:
                values[name] = field.missing_value
                continue
            if field.is_nullable_in(version) and self._is_null(name):
                values[name] = None
                continue
            values[name] = self._field(name, field, path, version)
        return kind(**values)

    def _is_null(self, name: str) -> bool:
        rate = 0.97 if name in {"transactional_id", "group_instance_id"} else self._null_rate
        return self.chance.random() < rate

    def _field(self, name: str, field: Field, path: str, version: int) -> Any:
        if not field.is_array:
            return self._value(name, field.element, path, version)
        count = self.chance.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))
        if self.chance.random() < 0.01:
            count = self.chance.choice((20, 130, 300))
        return [self._value(name, field.element, path, version) for _ in range(count)]

    def _value(self, name: str, element: Kind | type[Struct], path: str, version: int) -> Any:
        if not isinstance(element, Kind):
            return self._struct(element, f"{path}.{name}", version)
        drawer = getattr(self, f"_{element.name.lower()}")
        return drawer(name, path)

    def _odd(self) -> bool:
        return self.chance.random() < self._oddities

    # --- by type ---------------------------------------------------------------------------------
    def _boolean(self, name: str, path: str) -> bool:
        if name == "validate_only":
            return self.chance.random() < 0.7
        return self.chance.random() < 0.5

    def _float64(self, name: str, path: str) -> float:
        return self.chance.choice((0.0, -1.0, float("inf"), float("nan")))

    def _uuid(self, name: str, path: str) -> UUID:
        if name == "topic_id" and path.startswith(("Metadata.", "DeleteTopics.")):
            if self.chance.random() < 0.6:
                return ZERO_TOPIC_ID
        if self._odd() or not self.world.topics:
            return self.chance.choice((ZERO_TOPIC_ID, UUID(int=7), UUID(int=2**128 - 1)))
        return self.chance.choice(list(self.world.topics.values()))

    def _records(self, name: str, path: str) -> bytes:
        now_ms = self.world.now_ms() - self.chance.choice((0, 0, 0, 1, 1000, 3_600_001))
        producer = None
        if self.world.producers and self.chance.random() < 0.5:
            producer_id, epoch = self.chance.choice(self.world.producers)
            epoch += self.chance.choice((0, 0, 0, 0, 1, -1))
            sequence = self.chance.choice((0, 0, 1, 2, 5, INT32_MAX, INT32_MAX - 1))
            producer = (producer_id, max(epoch, 0), sequence)
        batch = sound_batch(self.chance, now_ms, producer)
        if self.chance.random() < 0.4:
            batch = broken_batch(self.chance, batch, now_ms)
        return batch

    def _bytes(self, name: str, path: str) -> bytes:
        if self._odd():
            return self.chance.choice((b"", b"\0", b"\xff" * 9, bytes(40_000), bytes(300)))
        # What a consumer subscribes to, or is assigned: version, topics, user data.
        return b"\0\0\0\0\0\1\0\6orders\0\0\0\0"

    def _string(self, name: str, path: str) -> str:
        roll = self.chance.random()
        if roll < self._oddities / 8:
            return self.chance.choice(_HUGE_TEXTS)
        if roll < self._oddities:
            return self.chance.choice(_ODD_TEXTS)
        return self._text(name, path)

    def _text(self, name: str, path: str) -> str:
        choose = self.chance.choice
        if (
            name in {"topic", "topic_name", "topic_names"}
            or (name == "name" and path.endswith(".topics"))
            or (name == "name" and path == "Produce.topic_data")
        ):
            pool = [*self.world.topics, "nope"]
            if path.startswith("CreateTopics") or self.chance.random() < 0.1:
                pool += _NEW_TOPICS
            if path.startswith("DeleteTopics"):
                pool = [*_NEW_TOPICS, "nope"]
            return choose(pool)
        if name in {"group_id", "groups", "groups_names", "coordinator_keys", "key"}:
            return choose(_GROUPS)
        if name == "member_id":
            return choose(["", *(member for _, member, _ in self.world.members)])
        if (name == "name" and path.endswith(".configs")) or name == "configuration_keys":
            return choose(choose((_TOPIC_CONFIG_NAMES, _TOPIC_CONFIG_NAMES, _BROKER_CONFIG_NAMES)))
        if name == "value":
            return choose(_CONFIG_VALUES)
        if name == "resource_name":
            return choose([*self.world.topics, "0", "7", "", "nope"])
        if name in {"name", "protocol_name"}:
            return choose(("range", "range", "roundrobin"))
        if name == "protocol_type":
            return choose(("consumer", "consumer", "consumer", "connect"))
        if name == "states_filter":
            return choose(("Stable", "Empty", "empty", "Dead", "PreparingRebalance"))
        if name == "types_filter":
            return choose(("classic", "Consumer", "share", "CLASSIC"))
        return choose(("a", "b", "instance-1", "some-client"))

    def _int8(self, name: str, path: str) -> int:
        if self._odd():
            return self.chance.choice((-128, -1, 0, 1, 2, 3, 127))
        if name in {"resource_type", "resource_types"}:
            return self.chance.choice((2, 2, 2, 4, 4, 8, 16, 32))
        if name == "endpoint_type":
            return self.chance.choice((1, 1, 1, 2))
        return self.chance.choice((0, 0, 1, 2, 3) if name == "config_operation" else (0, 0, 1))

    def _int16(self, name: str, path: str) -> int:
        if self._odd():
            return self.chance.choice((-32768, -2, -1, 0, 1, 2, 32767))
        if name == "acks":
            return self.chance.choice((-1, -1, 1, 0))
        return self.chance.choice((-1, 1, 1, 0))

    def _int32(self, name: str, path: str) -> int:
        choose = self.chance.choice
        if self._odd():
            return choose((-(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, INT32_MAX - 1, INT32_MAX))
        if name.endswith("_ms"):
            return choose((0, 1, 50, 1000, 6000, 30_000, 30_000, 30_000))
        if name.startswith("partition_i") or name in {"index", "partition", "partitions"}:
            return choose((0, 0, 0, 0, 0, 1, 2, 3))
        if name in {"count", "num_partitions"}:
            return choose((-1, 1, 1, 2, 3, 4, 5))
        if "epoch" in name:
            return choose((-1, -1, -1, 0, 0, 1))
        if name.startswith("generation"):
            return choose([-1, 0, 1, *(generation for _, _, generation in self.world.members)])
        if name.endswith("_bytes"):
            return choose((0, 1, 100, 1 << 20, INT32_MAX))
        if name == "replica_id":
            return -1
        if name in {"session_id", "session_epoch"}:
            return choose((-1, -1, -1, 0))
        if name == "response_partition_limit":
            return choose((1, 2, 3, 2000))
        return choose((-1, 0, 0, 0, 1))

    def _int64(self, name: str, path: str) -> int:
        choose = self.chance.choice
        if self._odd():
            return choose((-(2**63), -2, -1, 0, 1, INT32_MAX, 2**40, INT64_MAX - 1, INT64_MAX))
        if name == "timestamp":
            now_ms = self.world.now_ms()
            return choose((-1, -2, -3, -4, -5, -6, -7, 0, 1, now_ms, now_ms - 5, now_ms + 5))
        if name == "producer_id":
            return choose([-1, *(producer_id for producer_id, _ in self.world.producers)])
        return choose((-1, 0, 0, 1, 2, 3, 5, 10, 100))
