"""``trio-broker config``: check, show, init, explain, import."""

from __future__ import annotations

import stat
import sys
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from trio_broker.cli.configuration import (
    assignments_option,
    complete_key,
    echo_settings,
    file_argument,
    list_settings,
    load_or_exit,
    tell,
)
from trio_broker.cli.exits import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.settings.resolve import Resolved
    from trio_broker.settings.table import Setting


@click.group("config")
def config_group() -> None:
    """Write, check, show and explain configuration. Starts nothing, opens no data directory."""


@config_group.command("check")
@file_argument
@assignments_option
@click.pass_context
def config_check(
    context: click.Context, config_path: str | None, assignments: tuple[str, ...]
) -> None:
    """Tell every mistake in FILE, the environment and -X, as `serve` would.

    FILE is TOML; without it the one that TRIO_BROKER_CONFIG names counts, if any. Exit code 0 if
    there is no mistake, 2 otherwise.
    """
    list_settings(context, assignments)
    from trio_broker.settings.resolve import without_effect

    resolved = load_or_exit(config_path, assignments)
    if config_path is not None:
        _warn_of_readers(config_path, resolved)
    for sentence in without_effect(resolved):
        click.echo(f"warning: {sentence}", err=True)
    click.echo(f"{config_path or 'environment'}: no mistakes")


def _warn_of_readers(path: str, resolved: Resolved) -> None:
    """Say so if a file with a secret in it can be read by everybody on this machine."""
    from trio_broker.settings.sources import SourceKind
    from trio_broker.settings.table import settings

    has_secret = any(
        setting.secret and resolved.origins[setting.key].kind is SourceKind.FILE
        for setting in settings().values()
    )
    file = Path(path)
    if has_secret and file.is_file() and file.stat().st_mode & stat.S_IROTH:
        click.echo(
            f"{path}: warning: everybody on this machine can read the secret in it; chmod 640, or "
            "set it in the environment",
            err=True,
        )


@config_group.command("show")
@file_argument
@assignments_option
@click.option("--effective", is_flag=True, help="All values, not only those that were set.")
@click.option("--sources", is_flag=True, help="Say of each value where it is from.")
@click.pass_context
def config_show(
    context: click.Context,
    config_path: str | None,
    assignments: tuple[str, ...],
    *,
    effective: bool,
    sources: bool,
) -> None:
    """Print the configuration that `serve` would run with, as a TOML file.

    FILE, the environment and -X count as they do there. Secrets are not shown.
    """
    from trio_broker.settings.page import show_page

    list_settings(context, assignments)
    resolved = load_or_exit(config_path, assignments)
    click.echo(show_page(resolved, effective=effective, with_sources=sources), nl=False)


@config_group.command("init")
def config_init() -> None:
    """Print a configuration file to start from: every key with its default, as a comment."""
    from trio_broker.settings.page import template_page

    click.echo(template_page(), nl=False)


@config_group.command("explain")
@click.argument("key", required=False, shell_complete=complete_key)
def config_explain(key: str | None) -> None:
    """Say what KEY means, its limits, and how to set it. Without KEY: list all of them.

    KEY may also be a section, the name of an environment variable, or Kafka's name.
    """
    from trio_broker.settings.table import sections, settings

    if key is None:
        echo_settings()
        return
    if key in sections():
        click.echo(f"[{key}] {sections()[key]}")
        for setting in settings().values():
            if setting.section == key:
                click.echo(f"  {setting.key}\n      {setting.help}")
        return
    found = _find(key)
    if found is None:
        _tell_unknown(key)
        sys.exit(EXIT_USAGE)
    for line in _explanation(found):
        click.echo(line)


def _find(key: str) -> Setting | None:
    """Find a setting by any of its names."""
    from trio_broker.settings.table import OTHER_KAFKA_NAMES, find_setting, settings

    if (found := find_setting(OTHER_KAFKA_NAMES.get(key, key))) is not None:
        return found
    named = [
        setting
        for setting in settings().values()
        if key in {setting.environment_name, *setting.kafka_names}
    ]
    named = named or [setting for setting in settings().values() if setting.name == key]
    return named[0] if len(named) == 1 else None


def _tell_unknown(key: str) -> None:
    from trio_broker.settings.table import settings, unknown_key

    same = [setting.key for setting in settings().values() if setting.name == key]
    if same:
        tell([f"{key!r} is in several sections: {', '.join(same)}"])
    else:
        tell([unknown_key(key)])


def _explanation(setting: Setting) -> Iterator[str]:
    from trio_broker.settings.page import limits_text
    from trio_broker.settings.values import plain_text, toml_value

    default = plain_text(setting, setting.serve_default) or "none"
    if setting.serve_default != setting.default:
        default += f" (embedded: {plain_text(setting, setting.default) or 'none'})"
    example = "..." if setting.serve_default is None else setting.serve_default
    in_file = f"{setting.name} = {toml_value(setting, example)}"
    text = plain_text(setting, example)
    yield setting.key
    yield f"  {setting.help[0].upper()}{setting.help[1:]}."
    yield ""
    yield f"  default      {default}"
    if limits := limits_text(setting):
        yield f"  limits       {limits}"
    if setting.unit is not None:
        yield f"  unit         {setting.unit.value}, or a text like {setting.unit.examples}"
    if setting.kafka_names:
        yield f"  Kafka        {', '.join(setting.kafka_names)}"
    yield f"  file         {in_file}{f' under [{setting.section}]' if setting.section else ''}"
    yield f"  environment  {setting.environment_name}={text}"
    yield f"  command      -X {setting.key}={text}"
    yield f"  Python       {_in_python(setting)}"


def _in_python(setting: Setting) -> str:
    """Write a setting as an embedder does."""
    value = "..." if setting.default is None else setting.default
    written = f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)
    inner = f"{setting.name}={written}"
    if not setting.section:
        return f"BrokerConfig({inner})"
    return f"BrokerConfig({setting.section}={setting.section.capitalize()}Config({inner}))"


@config_group.command("import")
@click.argument("properties", metavar="SERVER.PROPERTIES", type=click.File("rb"))
def config_import(properties: IO[bytes]) -> None:
    """Print what Kafka's SERVER.PROPERTIES means here, as a TOML file; '-' reads stdin.

    What has no effect here stands at its end, as comments with the reason, and what is left to
    decide on stderr. Exit code 0, or 1 if the result needs a decision before a broker can start.
    """
    from trio_broker.settings.page import imported_page
    from trio_broker.settings.server_properties import import_properties, parse_properties
    from trio_broker.settings.sources import FILE_BYTES_MAX

    content = properties.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        tell([f"{properties.name}: more than {FILE_BYTES_MAX} bytes are no server.properties"])
        sys.exit(EXIT_USAGE)
    found = parse_properties(content.decode("latin-1"))  # as java.util.Properties does
    imported = import_properties(found)
    click.echo(imported_page(imported, found), nl=False)
    click.echo(
        f"{len(imported.values)} values taken over, {len(imported.dropped)} without effect here",
        err=True,
    )
    for sentence in imported.to_do:
        click.echo(f"to do: {sentence}", err=True)
    if imported.to_do:
        sys.exit(EXIT_FAILED)
