"""Every topic config and broker config of Apache Kafka 4.x that matters: what becomes of each.

A config is *honoured* (a field of `TopicConfig`, or of `BrokerConfig`), *kept* (stored and
reported for the tools that set it, without a meaning on this broker) or *fixed*: reported
read-only, and setting it to anything but its one value is refused with a reason. So nothing is
accepted and then ignored. The page docs/reference/topic-configs.md is written from these tables.

Pure. Read by `metadata` (which validates what clients set), by the handlers of DescribeConfigs and
the alter APIs, and by the command line.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

import attrs
from attrs import frozen

from trio_broker.config import (
    INT32_MAX,
    INT64_MAX,
    BrokerConfig,
    Durability,
    TimestampType,
    TopicConfig,
    kafka_config_name,
)
from trio_broker.errors import ConfigError, ConfigFault


class ConfigType(IntEnum):
    """Types of configs, with the numbers that DescribeConfigs gives them."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


class Treatment(Enum):
    """What becomes of a config that somebody sets."""

    HONOURED = "honoured"
    KEPT = "kept"  # stored and reported; there is nothing here that it could have an effect on
    FIXED = "fixed"  # only its default may be set


@frozen(kw_only=True)
class TopicConfigEntry:
    """One topic config.

    Attributes:
        name: Kafka's.
        type: how its text is read.
        treatment: what becomes of it.
        default: text of the value where nobody says otherwise; for an honoured one see
            `TopicConfig`.
        broker_name: the broker config that gives its default in Kafka, None if there is none.
        documentation: what it does; for a fixed one why there is no other value.
        attribute_name: of the field of `TopicConfig`, "" unless it is honoured.
    """

    name: str
    type: ConfigType
    treatment: Treatment
    default: str
    broker_name: str | None
    documentation: str
    attribute_name: str = ""


_HONOURED_TYPES: Mapping[str, ConfigType] = {
    "segment_bytes": ConfigType.INT,
    "index_interval_bytes": ConfigType.INT,
    "max_message_bytes": ConfigType.INT,
    "min_insync_replicas": ConfigType.INT,
    "cleanup_policy": ConfigType.LIST,
    "compression_type": ConfigType.STRING,
    "message_timestamp_type": ConfigType.STRING,
    "durability": ConfigType.STRING,
}
#: Broker configs whose names are not those of their topic configs with "log." before it.
_BROKER_NAMES: Mapping[str, str | None] = {
    "segment.ms": "log.roll.ms",
    "max.message.bytes": "message.max.bytes",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "compression.type": "compression.type",
    "min.insync.replicas": "min.insync.replicas",
    "durability": None,
}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _honoured() -> Iterable[TopicConfigEntry]:
    for attribute in attrs.fields(TopicConfig):
        name = kafka_config_name(attribute.name)
        yield TopicConfigEntry(
            name=name,
            type=_HONOURED_TYPES.get(attribute.name, ConfigType.LONG),
            treatment=Treatment.HONOURED,
            default=_text(attribute.default),
            broker_name=_BROKER_NAMES.get(name, f"log.{name}"),
            documentation=attribute.metadata["help"],
            attribute_name=attribute.name,
        )


def _fixed(
    name: str, kind: ConfigType, default: str, broker_name: str | None, reason: str
) -> TopicConfigEntry:
    return TopicConfigEntry(
        name=name,
        type=kind,
        treatment=Treatment.FIXED,
        default=default,
        broker_name=broker_name,
        documentation=reason,
    )


def _kept(name: str, documentation: str) -> TopicConfigEntry:
    return TopicConfigEntry(
        name=name,
        type=ConfigType.LIST,
        treatment=Treatment.KEPT,
        default="",
        broker_name=None,
        documentation=documentation,
    )


_NO_COMPACTION = "there is no log compaction yet, only cleanup.policy=delete"
_NO_RECOMPRESSION = "batches are stored as they were sent, never compressed again"
_DURABILITY = (
    "when records are flushed is said by 'durability' (fsync, interval or os), for the topic or "
    "for the broker"
)
_NO_TIERS = "there is no tiered storage"
_NO_REPLICATION = (
    "kept for tools that move partitions; with one replica per partition there is no replication "
    "to slow down"
)

_LONG, _INT, _BOOLEAN = ConfigType.LONG, ConfigType.INT, ConfigType.BOOLEAN
_ALL_TOPIC_CONFIGS = (
    *_honoured(),
    _fixed("compression.gzip.level", _INT, "-1", "compression.gzip.level", _NO_RECOMPRESSION),
    _fixed("compression.lz4.level", _INT, "9", "compression.lz4.level", _NO_RECOMPRESSION),
    _fixed("compression.zstd.level", _INT, "3", "compression.zstd.level", _NO_RECOMPRESSION),
    _fixed(
        "delete.retention.ms", _LONG, "86400000", "log.cleaner.delete.retention.ms", _NO_COMPACTION
    ),
    _fixed("flush.messages", _LONG, str(INT64_MAX), "log.flush.interval.messages", _DURABILITY),
    _fixed("flush.ms", _LONG, str(INT64_MAX), "log.flush.interval.ms", _DURABILITY),
    _kept("follower.replication.throttled.replicas", _NO_REPLICATION),
    _kept("leader.replication.throttled.replicas", _NO_REPLICATION),
    _fixed("local.retention.bytes", _LONG, "-2", "log.local.retention.bytes", _NO_TIERS),
    _fixed("local.retention.ms", _LONG, "-2", "log.local.retention.ms", _NO_TIERS),
    _fixed(
        "max.compaction.lag.ms",
        _LONG,
        str(INT64_MAX),
        "log.cleaner.max.compaction.lag.ms",
        _NO_COMPACTION,
    ),
    _fixed(
        "min.cleanable.dirty.ratio",
        ConfigType.DOUBLE,
        "0.5",
        "log.cleaner.min.cleanable.ratio",
        _NO_COMPACTION,
    ),
    _fixed(
        "min.compaction.lag.ms", _LONG, "0", "log.cleaner.min.compaction.lag.ms", _NO_COMPACTION
    ),
    _fixed(
        "preallocate", _BOOLEAN, "false", "log.preallocate", "segments grow as they are written"
    ),
    _fixed("remote.copy.lag.bytes", _LONG, "0", None, _NO_TIERS),
    _fixed("remote.copy.lag.ms", _LONG, "0", None, _NO_TIERS),
    _fixed("remote.log.copy.disable", _BOOLEAN, "false", None, _NO_TIERS),
    _fixed("remote.log.delete.on.disable", _BOOLEAN, "false", None, _NO_TIERS),
    _fixed("remote.storage.enable", _BOOLEAN, "false", None, _NO_TIERS),
    _fixed(
        "segment.index.bytes",
        _INT,
        "10485760",
        "log.index.size.max.bytes",
        "indexes are not preallocated and grow with their segment; limit that with segment.bytes "
        "and index.interval.bytes",
    ),
    _fixed(
        "segment.jitter.ms",
        _LONG,
        "0",
        "log.roll.jitter.ms",
        "a segment rolls with the batch that finds it too old, so that partitions do not roll all "
        "at one time",
    ),
    _fixed(
        "unclean.leader.election.enable",
        _BOOLEAN,
        "false",
        "unclean.leader.election.enable",
        "with one replica per partition no other could be elected",
    ),
)

#: Every topic config of Apache Kafka 4.x by its name, and 'durability', which is ours.
TOPIC_CONFIGS: Mapping[str, TopicConfigEntry] = MappingProxyType(
    {entry.name: entry for entry in sorted(_ALL_TOPIC_CONFIGS, key=lambda entry: entry.name)}
)

#: Topic configs that older versions of Apache Kafka knew, and why they are refused.
REMOVED_TOPIC_CONFIGS: Mapping[str, str] = MappingProxyType(
    {
        "message.downconversion.enable": "records are never converted to older formats",
        "message.format.version": "there is one format of records, version 2",
        "message.timestamp.difference.max.ms": (
            "use message.timestamp.before.max.ms and message.timestamp.after.max.ms"
        ),
    }
)

#: What a broker's own topics may be altered in: nothing that would let go of what they hold.
INTERNAL_TOPIC_CONFIGS = frozenset({"file.delete.delay.ms", "segment.bytes", "segment.ms"})

#: Longest text of a topic config: a longer one could be set in pieces, and never be told.
CONFIG_BYTES_MAX = 32_767
#: So many unknown names are compared with those that are known; a request can hold 100,000.
_HINTS_MAX = 10

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_THROTTLED_REPLICA = re.compile(r"[0-9]{1,10}:[0-9]{1,10}\Z")


def parse_list(text: str) -> list[str]:
    """Split the text of a list config as Kafka does: at commas, without blanks around."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_value(entry: TopicConfigEntry, text: str) -> object:
    """Read the text of a topic config by its type.

    Raises:
        ValueError: it is not of that type.
    """
    if len(text.encode()) > CONFIG_BYTES_MAX:
        raise ValueError(f"longer than {CONFIG_BYTES_MAX} bytes")
    text = text.strip()
    match entry.type:
        case ConfigType.BOOLEAN:
            if text.lower() not in {"true", "false"}:
                raise ValueError("not true or false")
            return text.lower() == "true"
        case ConfigType.INT | ConfigType.LONG:
            if _INTEGER.match(text) is None:
                raise ValueError("not a whole number")
            value = int(text)
            most = INT32_MAX if entry.type is ConfigType.INT else INT64_MAX
            if not -most - 1 <= value <= most:
                raise ValueError(f"not a number of type {entry.type.name}")
            return value
        case ConfigType.DOUBLE:
            number = float(text)
            if not math.isfinite(number):
                raise ValueError("not a number")
            return number
        case ConfigType.LIST:
            return parse_list(text)
        case ConfigType.STRING:
            return text


_ENUMS: Mapping[str, Callable[[str], object]] = {
    "message_timestamp_type": TimestampType,
    "durability": lambda text: Durability(text) if text else None,
}


def parse_topic_configs(
    configs: Mapping[str, str], defaults: TopicConfig | None = None
) -> TopicConfig:
    """Build a `TopicConfig` from Kafka's names and text values, over `defaults`.

    Raises:
        ConfigError: naming each key that is unknown or whose value is not acceptable.
    """
    faults: list[str | ConfigFault] = []
    values: dict[str, Any] = {}
    for name, text in configs.items():
        entry = TOPIC_CONFIGS.get(name)
        if entry is None:
            faults.append(_unknown(name, with_hint=len(faults) < _HINTS_MAX))
            continue
        try:
            value = parse_value(entry, text)
            if entry.treatment is Treatment.HONOURED:
                values[entry.attribute_name] = _honoured_value(entry, value)
            elif entry.treatment is Treatment.KEPT:
                _check_kept(value)
            elif value != parse_value(entry, entry.default):
                faults.append(f"{name} can only be {entry.default} here: {entry.documentation}")
        except ValueError as error:
            faults.append(f"invalid value {text[:100]!r} for topic config {name}: {error}")
    config = defaults or TopicConfig()
    for attribute_name, value in values.items():
        try:
            config = attrs.evolve(config, **{attribute_name: value})
        except ConfigError as error:
            name = kafka_config_name(attribute_name)
            faults += [ConfigFault(fault.reason, (name,)) for fault in error.details]
    if faults:
        raise ConfigError(faults)
    return config


def _honoured_value(entry: TopicConfigEntry, value: object) -> object:
    if isinstance(value, list):
        return ",".join(dict.fromkeys(value))
    if isinstance(value, str) and entry.attribute_name in _ENUMS:
        return _ENUMS[entry.attribute_name](value)
    return value


def _check_kept(value: object) -> None:
    """Check a list of throttled replicas: '*', or partition:broker pairs (Kafka's rule)."""
    if value == ["*"]:
        return
    assert isinstance(value, list)
    for part in value:
        if _THROTTLED_REPLICA.match(part) is None:
            raise ValueError(f"{part!r} is neither '*' alone nor partition:broker")


def _unknown(name: str, *, with_hint: bool) -> str:
    if name in REMOVED_TOPIC_CONFIGS:
        return f"unknown topic config {name!r}, gone since Kafka 4.0: {REMOVED_TOPIC_CONFIGS[name]}"
    near = difflib.get_close_matches(name[:100], TOPIC_CONFIGS, n=1) if with_hint else []
    return f"unknown topic config {name[:100]!r}" + (f", is it {near[0]!r}?" if near else "")


def topic_config_text(
    entry: TopicConfigEntry, config: TopicConfig, explicit: Mapping[str, str]
) -> str:
    """Return the value of one config that holds for a topic, as Kafka writes it.

    Args:
        entry: which.
        config: what holds, for those that are honoured.
        explicit: what was set for the topic, Kafka's names and text.
    """
    if entry.treatment is Treatment.HONOURED:
        return _text(getattr(config, entry.attribute_name))
    if entry.treatment is Treatment.KEPT:
        return ",".join(parse_list(explicit.get(entry.name, entry.default)))
    return entry.default


# --------------------------------------------------------------------------------------- brokers
@frozen(kw_only=True)
class BrokerConfigEntry:
    """One broker config, read-only for clients.

    Attributes:
        name: Kafka's.
        type: of its value.
        key: where it is set here, as a path in `BrokerConfig`; "" where it cannot be.
        documentation: what it does, or why it has this value.
        value: finds it in a configuration.
    """

    name: str
    type: ConfigType
    key: str
    documentation: str
    value: Callable[[BrokerConfig], object]

    def text(self, broker: BrokerConfig) -> str:
        """Return its value as Kafka writes it."""
        return _text(self.value(broker))


def _setting(
    name: str, kind: ConfigType, key: str, documentation: str, *, factor: float = 1
) -> BrokerConfigEntry:
    """Declare a broker config that is a setting here; its value times `factor` is Kafka's."""

    def value(broker: BrokerConfig) -> object:
        found: Any = broker
        for part in key.split("."):
            found = getattr(found, part)
        return found if factor == 1 else int(found * factor)

    return BrokerConfigEntry(
        name=name, type=kind, key=key, documentation=documentation, value=value
    )


def _constant(name: str, kind: ConfigType, value: object, reason: str) -> BrokerConfigEntry:
    return BrokerConfigEntry(
        name=name, type=kind, key="", documentation=reason, value=lambda _: value
    )


def _listeners(broker: BrokerConfig) -> str:
    return ",".join(f"PLAINTEXT://{address}" for address in broker.listeners)


def _advertised(broker: BrokerConfig) -> str:
    return f"PLAINTEXT://{broker.advertised}" if broker.advertised else _listeners(broker)


def _of_topics() -> Iterable[BrokerConfigEntry]:
    """Yield the broker configs that are defaults of topics."""
    for entry in TOPIC_CONFIGS.values():
        if entry.broker_name is None:
            continue
        if entry.treatment is Treatment.HONOURED:
            yield _setting(
                entry.broker_name, entry.type, f"topic.{entry.attribute_name}", entry.documentation
            )
        else:
            value = parse_value(entry, entry.default)
            yield _constant(entry.broker_name, entry.type, value, entry.documentation)


_STRING, _LIST = ConfigType.STRING, ConfigType.LIST
_OWN_BROKER_CONFIGS: Sequence[BrokerConfigEntry] = (
    BrokerConfigEntry(
        name="advertised.listeners",
        type=_STRING,
        key="advertised",
        documentation="address that clients are told to use",
        value=_advertised,
    ),
    BrokerConfigEntry(
        name="listeners",
        type=_STRING,
        key="listeners",
        documentation="addresses listened on",
        value=_listeners,
    ),
    BrokerConfigEntry(
        name="log.dirs",
        type=_STRING,
        key="log_dirs",
        documentation="directories of logs",
        value=lambda broker: ",".join(broker.log_directories),
    ),
    _setting("auto.create.topics.enable", _BOOLEAN, "auto_create_topics", "create topics on use"),
    _setting("broker.id", _INT, "node_id", "id of this broker"),
    _setting("node.id", _INT, "node_id", "id of this broker"),
    _setting("num.partitions", _INT, "num_partitions", "partitions of topics created without"),
    _setting(
        "connections.max.idle.ms",
        _LONG,
        "network.connection_idle_seconds",
        "idle connections are closed",
        factor=1000,
    ),
    _setting("fetch.max.bytes", _INT, "network.fetch_bytes_max", "largest fetch response"),
    _setting("max.connections", _INT, "network.connections_max", "connections open at once"),
    _setting(
        "max.connections.per.ip",
        _INT,
        "network.connections_per_address_max",
        "connections of one address",
    ),
    _setting(
        "socket.request.max.bytes", _INT, "network.produce_frame_bytes_max", "largest request"
    ),
    _setting(
        "offset.metadata.max.bytes",
        _INT,
        "limits.offset_metadata_bytes_max",
        "metadata of a committed offset",
    ),
    _setting(
        "producer.id.expiration.ms",
        _INT,
        "limits.producer_id_expiration_ms",
        "idle idempotent producers are forgotten",
    ),
    _setting(
        "offsets.topic.num.partitions",
        _INT,
        "group.offsets_topic_partitions",
        "partitions of __consumer_offsets when it is created",
    ),
    _setting(
        "offsets.topic.segment.bytes",
        _INT,
        "group.offsets_topic_segment_bytes",
        "size of its segments",
    ),
    _setting(
        "offsets.retention.minutes",
        _INT,
        "group.offsets_retention_ms",
        "committed offsets of groups without members are kept",
        factor=1 / 60_000,
    ),
    _setting(
        "offsets.retention.check.interval.ms",
        _LONG,
        "group.offsets_retention_check_interval_ms",
        "expired offsets are looked for",
    ),
    _setting(
        "group.initial.rebalance.delay.ms",
        _INT,
        "group.initial_rebalance_delay_ms",
        "the first members of a group wait for others",
    ),
    _setting(
        "group.min.session.timeout.ms",
        _INT,
        "group.session_timeout_min_ms",
        "shortest session timeout",
    ),
    _setting(
        "group.max.session.timeout.ms",
        _INT,
        "group.session_timeout_max_ms",
        "longest session timeout",
    ),
    _setting("group.max.size", _INT, "group.group_size_max", "members of one group"),
    _constant("default.replication.factor", _INT, 1, "there is one replica per partition"),
    _constant("offsets.topic.replication.factor", _INT, 1, "there is one replica per partition"),
    _constant("delete.topic.enable", _BOOLEAN, True, "topics can be deleted"),
    _constant("log.cleaner.enable", _BOOLEAN, False, _NO_COMPACTION),
    _constant("process.roles", _LIST, "broker,controller", "each broker decides for itself"),
    _constant("remote.log.storage.system.enable", _BOOLEAN, False, _NO_TIERS),
)

#: The broker configs that matter, by Kafka's names.
BROKER_CONFIGS: Mapping[str, BrokerConfigEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in sorted((*_OWN_BROKER_CONFIGS, *_of_topics()), key=lambda entry: entry.name)
    }
)
