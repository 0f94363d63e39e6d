"""Puts sources together: which value counts, where it is from, and every mistake of all of them.

Values are checked in each source, also those that another source overrides, and rules between
values where all of them are known: a rule is not applied to a key that has a mistake of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs

from trio_broker.config import BrokerConfig
from trio_broker.errors import ConfigError, ConfigFault
from trio_broker.settings.sources import (
    DEFAULT,
    SERVE_DEFAULT,
    Entry,
    Origin,
    Source,
    fault_of_key,
)
from trio_broker.settings.table import Setting, find_setting, sections, settings
from trio_broker.settings.values import read_value

_GRACE_KEY = "shutdown.ready_grace_seconds"


class Resolved(NamedTuple):
    """A configuration and where each of its values is from.

    Attributes:
        config: what holds.
        origins: of every setting, by its key.
    """

    config: BrokerConfig
    origins: Mapping[str, Origin]

    def value(self, setting: Setting) -> object:
        """Return what a setting has come to."""
        found: object = self.config
        for part in setting.path:
            found = getattr(found, part)
        return found


def resolve(sources: Iterable[Source], *, serve: bool = False) -> Resolved:
    """Build the configuration that sources ask for, each winning over those before it.

    Args:
        sources: from the weakest to the strongest.
        serve: whether the defaults are those of a process of its own.

    Raises:
        ConfigError: with every mistake found in any of the sources.
    """
    faults: list[ConfigFault] = []
    faulty: set[str] = set()
    values: dict[str, object] = {}
    origins: dict[str, Origin] = dict.fromkeys(settings(), DEFAULT)
    if serve:
        for setting in settings().values():
            if setting.serve_default != setting.default:
                values[setting.key] = setting.serve_default
                origins[setting.key] = SERVE_DEFAULT
    for source in sources:
        faults += source.faults
        for entry in source.entries:
            found = find_setting(entry.key)
            if found is None:
                faults.append(fault_of_key(entry))
                continue
            try:
                values[found.key] = read_value(found, entry.raw, is_text=entry.is_text)
            except ValueError as error:
                faults.append(_value_fault(found, entry, str(error)))
                faulty.add(found.key)
            else:
                origins[found.key] = entry.origin
    if values.get("http.listen") is None and origins[_GRACE_KEY] == SERVE_DEFAULT:
        values[_GRACE_KEY] = 0.0  # it is for those who ask whether the broker is ready
    config, broken = _assemble(values)
    if serve and config is not None and not config.listeners:
        reason = "must not be empty: nobody could connect to this server"
        broken = [*broken, ConfigFault(reason, ("listeners",))]
    faults += [_placed(fault, origins) for fault in broken if faulty.isdisjoint(fault.keys)]
    if config is None or faults:
        raise ConfigError(faults)
    return Resolved(config, origins)


def without_effect(resolved: Resolved) -> list[str]:
    """Say which values were set although nothing comes of them, each with the reason."""
    config = resolved.config
    reasons = {
        "limits.topic_mutations_burst": (
            config.limits.topic_mutations_per_second < 0,
            "limits.topic_mutations_per_second is -1, so there is no limit",
        ),
        "metrics.per_partition_max": (
            not config.metrics.per_partition,
            "metrics.per_partition is false",
        ),
    }
    for setting in settings().values():
        if setting.section in {"http", "metrics"} and setting.key != "http.listen":
            if config.http.listen is None:
                reasons[setting.key] = (True, "http.listen is unset, so nothing is served there")
    return [
        f"{origin}: {key} has no effect: {reasons[key][1]}"
        for key, origin in resolved.origins.items()
        if origin not in {DEFAULT, SERVE_DEFAULT} and key in reasons and reasons[key][0]
    ]


def _value_fault(setting: Setting, entry: Entry, reason: str) -> ConfigFault:
    if setting.secret:
        reason = "must be a text in quotes"  # and the value is not repeated
    return ConfigFault(reason, (setting.key,), str(entry.origin))


def _assemble(
    values: Mapping[str, object],
) -> tuple[BrokerConfig | None, list[ConfigFault]]:
    """Build the configuration, or return what its parts have to say against it."""
    faults: list[ConfigFault] = []
    top: dict[str, Any] = {key: value for key, value in values.items() if "." not in key}
    kinds = {attribute.name: attribute.type for attribute in attrs.fields(BrokerConfig)}
    for section in sections():
        changes = {
            key.removeprefix(f"{section}."): value
            for key, value in values.items()
            if key.startswith(f"{section}.")
        }
        kind: Any = kinds[section]
        try:
            top[section] = kind(**changes)
        except ConfigError as error:
            faults += [
                fault._replace(keys=tuple(_full_key(section, key) for key in fault.keys))
                for fault in error.details
            ]
    broken_sections = sections().keys() - top.keys()
    try:
        config = BrokerConfig(**top)
    except ConfigError as error:
        # What stands in the place of a broken section is its default, which nobody asked for.
        faults += [
            fault
            for fault in error.details
            if broken_sections.isdisjoint(key.partition(".")[0] for key in fault.keys)
        ]
        return None, faults
    return config, faults


def _full_key(section: str, key: str) -> str:
    return f"{section}.{key}"


def _placed(fault: ConfigFault, origins: Mapping[str, Origin]) -> ConfigFault:
    """Say of a broken rule where its values were set; the one to change first is one that was."""
    where = {key: origins.get(key, DEFAULT) for key in fault.keys}
    set_keys = [key for key, origin in where.items() if origin not in {DEFAULT, SERVE_DEFAULT}]
    if not set_keys:
        return fault
    place = where[set_keys[0]]
    keys = fault.keys if fault.reason.startswith("must ") else (set_keys[0], *fault.keys)
    others = [f"{key} is set by {where[key]}" for key in set_keys[1:] if where[key] != place]
    reason = f"{fault.reason} ({', '.join(others)})" if others else fault.reason
    return ConfigFault(reason, tuple(dict.fromkeys(keys)), str(place))
