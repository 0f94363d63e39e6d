"""A configuration as TOML: what holds, with or without where it is from, and the empty template.

The standard library reads TOML and does not write it; what is written here are numbers, texts, true
and false, and lists of texts, each with a comment, and all of it reads back as the same values.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from trio_broker.config import INT64_MAX
from trio_broker.config_checks import number_text
from trio_broker.settings.sources import DEFAULT, SERVE_DEFAULT
from trio_broker.settings.table import Setting, sections, settings
from trio_broker.settings.units import Unit
from trio_broker.settings.values import plain_text, toml_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trio_broker.settings.resolve import Resolved
    from trio_broker.settings.server_properties import Imported

_WIDTH = 98
_NOT_SHOWN = '"..."'


def show_page(resolved: Resolved, *, effective: bool, with_sources: bool) -> str:
    """Write a configuration as TOML; secrets are comments, with nothing of them in it.

    Args:
        resolved: what to write.
        effective: every value, not only those that somebody set.
        with_sources: say of each value where it is from.
    """
    shown = [
        setting
        for setting in settings().values()
        if effective or resolved.origins[setting.key] not in {DEFAULT, SERVE_DEFAULT}
    ]

    def lines_of(setting: Setting) -> Iterator[str]:
        value, origin = resolved.value(setting), resolved.origins[setting.key]
        place = "".join(letter if letter.isprintable() else "?" for letter in str(origin))
        note = f"  # {place}" if with_sources else ""
        if setting.secret and value is not None:
            yield f"# {setting.name} = {_NOT_SHOWN}{note or '  # set, but not shown'}"
        else:
            yield f"{setting.name} = {toml_value(setting, value)}{note}"

    head = [] if shown else ["# Nothing was set; --effective shows the defaults."]
    return _page(head, shown, lines_of)


_TEMPLATE_HEAD = """\
Configuration of trio-broker. Every key stands here with its default, as a comment: take away the
'#' in front of what you change. `trio-broker config check FILE` tells all mistakes at once,
`trio-broker serve -c FILE` runs a broker with it. The environment (TRIO_BROKER_NODE_ID=1,
TRIO_BROKER_STORAGE__DURABILITY=os) wins over this file, -X key=value over both.

Durations are texts like "7d", "1h30m", "250ms", sizes like "64MiB"; a number without quotes is
in the unit of its key. "" is no value. Relative paths begin where the broker is started."""


def template_page() -> str:
    """Write a TOML file in which every setting stands as a comment, with all there is to know."""

    def lines_of(setting: Setting) -> Iterator[str]:
        yield ""
        about = f"{describe(setting)}."
        yield from (f"## {line}" for line in textwrap.wrap(about, _WIDTH - 3))
        yield f"#{setting.name} = {toml_value(setting, setting.serve_default)}"

    head = [f"# {line}".rstrip() for line in _TEMPLATE_HEAD.splitlines()]
    return _page(head, settings().values(), lines_of, comment_sections=True)


def _page(
    head: list[str],
    shown: Iterable[Setting],
    lines_of: Callable[[Setting], Iterable[str]],
    *,
    comment_sections: bool = False,
) -> str:
    lines = list(head)
    for section, members in groupby(shown, lambda setting: setting.section):
        if section:
            lines.append("")
            if comment_sections:
                lines.append(f"# {sections()[section]}")
            lines.append(f"[{section}]")
        for setting in members:
            lines += lines_of(setting)
    return "\n".join(lines).strip("\n") + "\n"


def describe(setting: Setting) -> str:
    """Say in one sentence what a setting does, its limits, and its name in Kafka."""
    text = setting.help[0].upper() + setting.help[1:]
    if limits := limits_text(setting):
        text += f"; {limits}"
    if setting.kafka_names:
        text += f" (Kafka: {', '.join(setting.kafka_names)})"
    return text


def limits_text(setting: Setting) -> str:
    """Say between which values a number may be; "" if it is none."""
    limits = setting.limits
    if limits is None:
        return ""
    least, most = (_limit(setting, value) for value in (limits.least, limits.most))
    special = ", ".join(map(number_text, limits.special)) + ", or " if limits.special else ""
    return special + (f"at least {least}" if limits.most >= INT64_MAX else f"{least} to {most}")


def _limit(setting: Setting, value: float) -> str:
    """Write a limit in its unit; what has none of ours is a number with a word."""
    if setting.unit is None:
        return f"{value:g}" if value < 1e6 else str(int(value))
    short = plain_text(setting, float(value) if setting.unit is Unit.SECONDS else value)
    return short


def imported_page(imported: Imported, properties: Mapping[str, str]) -> str:
    """Write what became of a server.properties as TOML, with what was dropped and why.

    Args:
        imported: what became of it.
        properties: what it was, by name.
    """

    def lines_of(setting: Setting) -> Iterator[str]:
        name = imported.names[setting.key]
        was = f"{name}={properties.get(name, '')}".encode("unicode_escape").decode()
        yield f"{setting.name} = {toml_value(setting, imported.values[setting.key])}  # {was}"

    shown = [setting for setting in settings().values() if setting.key in imported.values]
    head = ["# From Kafka's server.properties, by `trio-broker config import`."]
    head += [f"# To do: {sentence}" for sentence in imported.to_do]
    lines = [_page([*head, ""], shown, lines_of)]
    if imported.dropped:
        lines.append("\n# Without effect here:\n")
        for name, reason in sorted(imported.dropped.items()):
            lines.append(f"# {name.encode('unicode_escape').decode()}: {reason}\n")
    return "".join(lines)
