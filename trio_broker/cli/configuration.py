"""Text to configuration: ``-X key=value`` and options into `BrokerConfig`, all mistakes at once.

Keys are the dotted paths of `trio_broker.config`'s fields (``network.connections_max``); those of
``topic`` may also be written as Kafka does (``topic.retention.ms``). Called by the commands; reads
no file and starts nothing.
"""

from __future__ import annotations

import difflib
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import cattrs

from trio_broker.config import BrokerConfig
from trio_broker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


class Setting(NamedTuple):
    """One configurable value.

    Attributes:
        key: dotted path, ``network.connections_max``.
        path: the same in parts.
        type: its type, resolved.
        default: its value when nothing is said.
        help: what it does, in a few words.
        least: lowest value accepted, or None.
        most: highest value accepted, or None.
    """

    key: str
    path: tuple[str, ...]
    type: Any
    default: object
    help: str
    least: float | None
    most: float | None

    @property
    def default_text(self) -> str:
        """The default as one would write it after ``key=``."""
        return value_text(self.default)


def value_text(value: object) -> str:
    """Write a value the way `parse_value` reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def settings() -> Mapping[str, Setting]:
    """Return every configurable value by its key, in the order of declaration."""
    return {setting.key: setting for setting in _settings_of(BrokerConfig, BrokerConfig(), ())}


def _settings_of(
    cls: type[attrs.AttrsInstance], defaults: object, path: tuple[str, ...]
) -> Iterator[Setting]:
    attrs.resolve_types(cls)
    for attribute in attrs.fields(cls):
        here = (*path, attribute.name)
        default = getattr(defaults, attribute.name)
        if attrs.has(type(default)):
            yield from _settings_of(type(default), default, here)
            continue
        yield Setting(
            key=".".join(here),
            path=here,
            type=attribute.type,
            default=default,
            help=attribute.metadata["help"],
            least=attribute.metadata.get("least"),
            most=attribute.metadata.get("most"),
        )


def _parse_bool(text: str, _: object) -> bool:
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return lowered in _TRUE


def _parse_int(text: str, _: object) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _parse_float(text: str, _: object) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _parse_texts(text: str, _: object) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_optional(text: str, kind: Any) -> object:
    inner = next(part for part in kind.__args__ if part is not type(None))
    return _converter.structure(text, inner) if text else None


def _parse_enum(text: str, kind: Any) -> Enum:
    try:
        member: Enum = kind(text)
    except ValueError:
        choices = ", ".join(str(choice.value) for choice in kind)
        raise ValueError(f"{text!r} is not one of {choices}") from None
    return member


def _is_optional(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


# cattrs finds the parser of a field's type; its own hooks would accept int("5.0") as float("5").
_converter = cattrs.Converter(detailed_validation=False)
_converter.register_structure_hook(bool, _parse_bool)
_converter.register_structure_hook(int, _parse_int)
_converter.register_structure_hook(float, _parse_float)
_converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _parse_texts)
_converter.register_structure_hook(StrEnum, _parse_enum)
_converter.register_structure_hook_func(_is_optional, _parse_optional)


#: Where a process of its own has another default than a broker inside a program.
SERVER_DEFAULTS: Mapping[tuple[str, ...], object] = {
    ("storage", "ballast_bytes"): -1,
    ("group", "initial_rebalance_delay_ms"): 3000,
}


def build_config(
    assignments: Iterable[str] = (),
    *,
    data_dir: str | None = None,
    listeners: tuple[str, ...] = (),
    advertised: str | None = None,
    defaults: Mapping[tuple[str, ...], object] | None = None,
) -> BrokerConfig:
    """Build the configuration that a command line asks for; options win over assignments.

    Args:
        assignments: ``key=value`` each; the last one of a key counts.
        data_dir: as `BrokerConfig.data_dir`.
        listeners: as `BrokerConfig.listeners`.
        advertised: as `BrokerConfig.advertised`.
        defaults: instead of the classes' own, by the path of the key.

    Raises:
        ConfigError: with every mistake found, not only the first.
    """
    known = settings()
    faults: list[str] = []
    values: dict[tuple[str, ...], object] = dict(defaults or {})
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip()
        if not separator:
            faults.append(f"{assignment!r} is not key=value")
            continue
        setting = known.get(key) or known.get(_without_kafka_dots(key))
        if setting is None:
            faults.append(_unknown_key(key, known))
            continue
        try:
            values[setting.path] = _converter.structure(text.strip(), setting.type)
        except ValueError as error:
            faults.append(f"{setting.key}: {error}")
    if data_dir is not None:
        values["data_dir",] = data_dir
    if listeners:
        values["listeners",] = listeners
    if advertised is not None:
        values["advertised",] = advertised
    config, more_faults = _assemble(values)
    faults += more_faults
    if config is None or faults:
        raise ConfigError(faults)
    return config


def _assemble(values: Mapping[tuple[str, ...], object]) -> tuple[BrokerConfig | None, list[str]]:
    """Build the config, or return what each of its parts has to say against it."""
    faults: list[str] = []
    top: dict[str, Any] = {path[0]: value for path, value in values.items() if len(path) == 1}
    for section in attrs.fields(BrokerConfig):
        changes = {
            path[1]: value
            for path, value in values.items()
            if len(path) == 2 and path[0] == section.name
        }
        if not changes:
            continue
        kind: Any = type(getattr(BrokerConfig(), section.name))
        try:
            top[section.name] = kind(**changes)
        except ConfigError as error:
            faults += [f"{section.name}.{fault}" for fault in error.faults]
    try:
        config = BrokerConfig(**top)
    except ConfigError as error:
        return None, [*faults, *error.faults]
    return config, faults


def _without_kafka_dots(key: str) -> str:
    """Turn ``topic.retention.ms`` into ``topic.retention_ms``."""
    section, separator, name = key.partition(".")
    return f"{section}{separator}{name.replace('.', '_')}" if section == "topic" else key


def _unknown_key(key: str, known: Mapping[str, Setting]) -> str:
    """Say that a key is unknown and which one may be meant, also where its section was left out."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if not close:
        last_parts = {name.rpartition(".")[2]: name for name in known}
        near = difflib.get_close_matches(key.rpartition(".")[2], last_parts, n=1, cutoff=0.75)
        close = [last_parts[name] for name in near]
    hint = f", did you mean {close[0]!r}?" if close else "; `-X list` shows all keys"
    return f"unknown key {key!r}{hint}"


def describe_settings() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, help with limits) of every setting, for ``-X list`` and the docs."""
    for setting in settings().values():
        text = setting.help
        if (of_server := SERVER_DEFAULTS.get(setting.path)) is not None:
            text += f"; under `serve` {of_server}"
        if setting.least is not None and setting.most is not None:
            text += f" ({_limit_text(setting.least)} to {_limit_text(setting.most)})"
        yield setting.key, setting.default_text, text


def _limit_text(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)
