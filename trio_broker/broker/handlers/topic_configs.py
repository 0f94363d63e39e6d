"""Topic and broker configuration as Kafka's tools see it: names, values, sources, types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trio_broker.config import BrokerConfig, TopicConfig
from trio_broker.config_catalog import (
    BROKER_CONFIGS,
    TOPIC_CONFIGS,
    ConfigType,
    TopicConfigEntry,
    Treatment,
    topic_config_text,
)

# org.apache.kafka.clients.admin.ConfigEntry.ConfigSource, as numbers of the protocol.
SOURCE_TOPIC = 1
SOURCE_STATIC_BROKER = 4
SOURCE_DEFAULT = 5


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
    type: ConfigType
    documentation: str
    synonyms: Sequence[ConfigSynonym]
    read_only: bool


_DEFAULTS = TopicConfig()
_BROKER_DEFAULTS = BrokerConfig()


def describe_topic_configs(
    broker: BrokerConfig, config: TopicConfig, explicit: Mapping[str, str]
) -> list[ConfigEntry]:
    """List a topic's configuration, sorted by name, saying where each value comes from.

    What can only have its default is read-only.
    """
    return [_topic_entry(entry, broker, config, explicit) for entry in TOPIC_CONFIGS.values()]


def _topic_entry(
    entry: TopicConfigEntry, broker: BrokerConfig, config: TopicConfig, explicit: Mapping[str, str]
) -> ConfigEntry:
    value = topic_config_text(entry, config, explicit)
    default = topic_config_text(entry, _DEFAULTS, {})
    of_broker = topic_config_text(entry, broker.topic, {})
    if entry.name == "durability":
        default = str(_BROKER_DEFAULTS.storage.durability)
        of_broker = of_broker or str(broker.storage.durability)
        value = value or str(broker.storage.durability)
    broker_name = entry.broker_name or entry.name
    synonyms = [ConfigSynonym(broker_name, default, SOURCE_DEFAULT)]
    if of_broker != default:
        synonyms.insert(0, ConfigSynonym(broker_name, of_broker, SOURCE_STATIC_BROKER))
    if entry.name in explicit:
        synonyms.insert(0, ConfigSynonym(entry.name, value, SOURCE_TOPIC))
    return ConfigEntry(
        entry.name,
        value,
        synonyms[0].source,
        entry.type,
        entry.documentation,
        synonyms,
        entry.treatment is Treatment.FIXED,
    )


def describe_broker_configs(broker: BrokerConfig) -> list[ConfigEntry]:
    """List the broker's own configuration under Kafka's names, read-only, sorted by name."""
    entries = []
    for entry in BROKER_CONFIGS.values():
        value, default = entry.text(broker), entry.text(_BROKER_DEFAULTS)
        synonyms = [ConfigSynonym(entry.name, default, SOURCE_DEFAULT)]
        if value != default:
            synonyms.insert(0, ConfigSynonym(entry.name, value, SOURCE_STATIC_BROKER))
        documentation = entry.documentation
        if entry.key:
            documentation += f" (set by {entry.key} in the broker's own configuration)"
        entries.append(
            ConfigEntry(
                entry.name,
                value,
                synonyms[0].source,
                entry.type,
                documentation,
                synonyms,
                read_only=True,
            )
        )
    return entries
