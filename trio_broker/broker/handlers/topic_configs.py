"""Topic and broker configuration as Kafka's tools see it: names, values, sources, types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from trio_broker.config import (
    BrokerConfig,
    TopicConfig,
    kafka_config_name,
    topic_config_text,
)

# org.apache.kafka.clients.admin.ConfigEntry.ConfigSource, as numbers of the protocol.
SOURCE_TOPIC = 1
SOURCE_STATIC_BROKER = 4
SOURCE_DEFAULT = 5

# org.apache.kafka.common.config.ConfigDef.Type, as numbers of the protocol.
TYPE_BOOLEAN = 1
TYPE_STRING = 2
TYPE_INT = 3
TYPE_LONG = 5
TYPE_LIST = 7


class ConfigSynonym(NamedTuple):
    """A place a value could have come from, nearest first."""

    name: str
    value: str
    source: int


class ConfigEntry(NamedTuple):
    """One configuration key with its effective value."""

    name: str
    value: str
    source: int
    type: int
    documentation: str
    synonyms: Sequence[ConfigSynonym] = ()
    read_only: bool = False


_DEFAULTS = TopicConfig()
_TYPES: Mapping[str, int] = {
    "segment_bytes": TYPE_INT,
    "index_interval_bytes": TYPE_INT,
    "max_message_bytes": TYPE_INT,
    "min_insync_replicas": TYPE_INT,
    "cleanup_policy": TYPE_LIST,
    "compression_type": TYPE_STRING,
    "message_timestamp_type": TYPE_STRING,
    "durability": TYPE_STRING,
}


def describe_topic_configs(
    broker: BrokerConfig, config: TopicConfig, explicit: Mapping[str, str]
) -> list[ConfigEntry]:
    """List a topic's configuration, sorted by name, saying where each value comes from."""
    entries = []
    for attribute in attrs.fields(TopicConfig):
        name = kafka_config_name(attribute.name)
        default = topic_config_text(getattr(_DEFAULTS, attribute.name))
        of_broker = topic_config_text(getattr(broker.topic, attribute.name))
        value = topic_config_text(getattr(config, attribute.name))
        synonyms = [ConfigSynonym(name, default, SOURCE_DEFAULT)]
        if of_broker != default:
            synonyms.insert(0, ConfigSynonym(name, of_broker, SOURCE_STATIC_BROKER))
        if name in explicit:
            synonyms.insert(0, ConfigSynonym(name, value, SOURCE_TOPIC))
        if attribute.name == "durability" and not value:
            value = str(broker.storage.durability)
        entries.append(
            ConfigEntry(
                name,
                value,
                synonyms[0].source,
                _TYPES.get(attribute.name, TYPE_LONG),
                attribute.metadata["help"],
                synonyms,
            )
        )
    return sorted(entries)


def describe_broker_configs(broker: BrokerConfig) -> list[ConfigEntry]:
    """List the broker's own configuration under Kafka's names where it has one, read-only."""
    listeners = ",".join(f"PLAINTEXT://{address}" for address in broker.listeners)
    advertised = f"PLAINTEXT://{broker.advertised}" if broker.advertised else listeners
    rows = [
        ("advertised.listeners", advertised, TYPE_STRING, "addresses that clients are told"),
        ("auto.create.topics.enable", broker.auto_create_topics, TYPE_BOOLEAN, "create on demand"),
        ("broker.id", broker.node_id, TYPE_INT, "id of this broker"),
        ("connections.max.idle.ms", int(broker.network.connection_idle_seconds * 1000), TYPE_LONG,
         "idle connections are closed"),
        ("default.replication.factor", 1, TYPE_INT, "replicas of new partitions"),
        ("delete.topic.enable", True, TYPE_BOOLEAN, "topics can be deleted"),
        ("fetch.max.bytes", broker.network.fetch_bytes_max, TYPE_INT, "largest fetch response"),
        ("listeners", listeners, TYPE_STRING, "addresses listened on"),
        ("log.dirs", ",".join(broker.log_directories), TYPE_STRING, "directories of logs"),
        ("log.index.interval.bytes", broker.topic.index_interval_bytes, TYPE_INT, "index density"),
        ("log.message.timestamp.type", broker.topic.message_timestamp_type, TYPE_STRING,
         "who stamps records"),
        ("log.retention.bytes", broker.topic.retention_bytes, TYPE_LONG, "size kept"),
        ("log.retention.ms", broker.topic.retention_ms, TYPE_LONG, "age kept"),
        ("log.roll.ms", broker.topic.segment_ms, TYPE_LONG, "age of a segment"),
        ("log.segment.bytes", broker.topic.segment_bytes, TYPE_INT, "size of a segment"),
        ("max.connections", broker.network.connections_max, TYPE_INT, "connections at once"),
        ("max.connections.per.ip", broker.network.connections_per_address_max, TYPE_INT,
         "connections of one address"),
        ("message.max.bytes", broker.topic.max_message_bytes, TYPE_INT, "largest batch"),
        ("min.insync.replicas", broker.topic.min_insync_replicas, TYPE_INT, "for acks=all"),
        ("node.id", broker.node_id, TYPE_INT, "id of this broker"),
        ("num.partitions", broker.num_partitions, TYPE_INT, "partitions of new topics"),
        ("offset.metadata.max.bytes", broker.limits.offset_metadata_bytes_max, TYPE_INT,
         "metadata of a committed offset"),
        ("offsets.topic.num.partitions", broker.group.offsets_topic_partitions, TYPE_INT,
         "partitions of __consumer_offsets"),
        ("producer.id.expiration.ms", broker.limits.producer_id_expiration_ms, TYPE_INT,
         "idle producers are forgotten"),
        ("socket.request.max.bytes", broker.network.produce_frame_bytes_max, TYPE_INT,
         "largest request"),
    ]  # fmt: skip
    return [
        ConfigEntry(name, _text(value), SOURCE_STATIC_BROKER, kind, documentation, (), True)
        for name, value, kind, documentation in rows
    ]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
