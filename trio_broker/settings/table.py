"""Every setting of a broker by its key, read off the classes of `trio_broker.config`.

What the command line, the environment, files, the template and the reference page know of a setting
comes from here, so none of them can know one that the others do not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from trio_broker.config import BrokerConfig
from trio_broker.config_catalog import BROKER_CONFIGS, TOPIC_CONFIGS
from trio_broker.config_checks import Limits
from trio_broker.settings.units import Unit, unit_of

ENVIRONMENT_PREFIX = "TRIO_BROKER_"

#: Where a process of its own has another default than a broker inside a program.
SERVE_DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "storage.ballast_bytes": -1,
        "group.initial_rebalance_delay_ms": 3000,
        "http.listen": "127.0.0.1:9644",
        "shutdown.ready_grace_seconds": 3.0,
    }
)


class Setting(NamedTuple):
    """One configurable value.

    Attributes:
        key: dotted path, ``network.connections_max``.
        path: the same in parts.
        type: its type, resolved.
        unit: what its number counts, None if that is in the name or there is no number.
        default: its value in an embedded broker when nothing is said.
        serve_default: the same in `trio-broker serve`.
        help: what it does, in a few words.
        limits: which numbers are accepted, or None.
        secret: whether its value is nobody else's business.
        kafka_names: of the broker and topic configs that mean the same, topic configs last.
    """

    key: str
    path: tuple[str, ...]
    type: Any
    unit: Unit | None
    default: object
    serve_default: object
    help: str
    limits: Limits | None
    secret: bool
    kafka_names: tuple[str, ...]

    @property
    def section(self) -> str:
        """The part of the key before the last dot, "" if there is none."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The part of the key behind the last dot."""
        return self.path[-1]

    @property
    def environment_name(self) -> str:
        """The environment variable that sets it."""
        return environment_name(self.key)

    @property
    def is_optional(self) -> bool:
        """Whether it may be left without a value, written as an empty text."""
        return type(None) in getattr(self.type, "__args__", ())

    @property
    def value_type(self) -> Any:
        """Its type without the None."""
        if not self.is_optional:
            return self.type
        return next(part for part in self.type.__args__ if part is not type(None))


def environment_name(key: str) -> str:
    """Return the environment variable of a key: ``TRIO_BROKER_NETWORK__CONNECTIONS_MAX``."""
    return ENVIRONMENT_PREFIX + key.replace(".", "__").upper()


@cache
def settings() -> Mapping[str, Setting]:
    """Return every setting by its key, those without a section first, as they are declared."""
    found = list(_settings_of(BrokerConfig, BrokerConfig(), ()))
    found.sort(key=lambda setting: len(setting.path) > 1)
    return MappingProxyType({setting.key: setting for setting in found})


@cache
def sections() -> Mapping[str, str]:
    """Return what each section is about, by its name."""
    return MappingProxyType(
        {
            attribute.name: attribute.metadata.get(
                "help", (attribute.type.__doc__ or "").partition("\n")[0]
            )
            for attribute in attrs.fields(BrokerConfig)
            if attribute.type is not None and attrs.has(attribute.type)
        }
    )


def _settings_of(
    cls: type[attrs.AttrsInstance], defaults: object, path: tuple[str, ...]
) -> Iterator[Setting]:
    for attribute in attrs.fields(cls):
        here = (*path, attribute.name)
        default = getattr(defaults, attribute.name)
        if attrs.has(type(default)):
            yield from _settings_of(type(default), default, here)
            continue
        key = ".".join(here)
        yield Setting(
            key=key,
            path=here,
            type=attribute.type,
            unit=unit_of(attribute.name),
            default=default,
            serve_default=SERVE_DEFAULTS.get(key, default),
            help=attribute.metadata["help"],
            limits=attribute.metadata.get("limits"),
            secret=attribute.metadata.get("secret", False),
            kafka_names=_kafka_names(key, attribute.name),
        )


#: Further names that Kafka has for a setting, in another unit or from earlier versions.
OTHER_KAFKA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "log.dir": "log_dirs",
        "log.retention.hours": "topic.retention_ms",
        "log.retention.minutes": "topic.retention_ms",
        "log.roll.hours": "topic.segment_ms",
    }
)


def _kafka_names(key: str, name: str) -> tuple[str, ...]:
    of_brokers = [entry.name for entry in BROKER_CONFIGS.values() if entry.key == key]
    of_topics = [
        entry.name
        for entry in TOPIC_CONFIGS.values()
        if key.startswith("topic.") and entry.attribute_name == name and entry.name != "durability"
    ]
    return tuple(dict.fromkeys([*of_brokers, *of_topics]))


def find_setting(key: str) -> Setting | None:
    """Return the setting of a key; those of topics may be written as Kafka does."""
    section, separator, name = key.partition(".")
    if section == "topic":
        key = f"{section}{separator}{name.replace('.', '_')}"
    return settings().get(key)


def unknown_key(key: str) -> str:
    """Say that a key is unknown and which one may be meant, also by a name that is Kafka's."""
    shown = repr(key[:100])
    if key in sections():
        return f"{shown} is a section, not a value; set the keys in it, like '{_first_of(key)}'"
    if meant := nearest_key(key):
        return f"unknown key {shown}, did you mean {meant!r}?"
    if key in BROKER_CONFIGS:
        reason = BROKER_CONFIGS[key].documentation
        return f"unknown key {shown}; this config of Kafka cannot be set here: {reason}"
    return f"unknown key {shown}; `trio-broker config explain` lists all keys"


def nearest_key(key: str) -> str | None:
    """Return the key that somebody probably means, or None."""
    known = settings()
    if key in OTHER_KAFKA_NAMES:
        return OTHER_KAFKA_NAMES[key]
    for setting in known.values():
        if key in setting.kafka_names:
            return setting.key
    close = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.7)
    if not close:
        last_parts = {setting.name: setting.key for setting in known.values()}
        near = difflib.get_close_matches(key[:100].rpartition(".")[2], last_parts, n=1, cutoff=0.75)
        close = [last_parts[name] for name in near]
    return close[0] if close else None


def _first_of(section: str) -> str:
    return next(key for key in settings() if key.startswith(f"{section}."))
