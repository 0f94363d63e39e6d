"""How commands come to a configuration: their options, the sources, how mistakes are told.

Light, as every file that declares commands; what reads and checks is imported when it is needed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from trio_broker.cli.exits import EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trio_broker.settings.resolve import Resolved
    from trio_broker.settings.sources import Entry


def complete_key(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Offer keys to a shell."""
    from trio_broker.settings.table import settings

    return [key for key in settings() if key.startswith(incomplete)]


def _complete_assignment(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [f"{key}=" for key in complete_key(_, __, incomplete)]


#: ``-X KEY=VALUE``, for every command that has a configuration.
assignments_option = click.option(
    "-X",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=_complete_assignment,
    help="Set any configuration value; `-X list` shows them all.",
)
#: ``-c FILE`` of `serve`.
file_option = click.option(
    "-c",
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(),
    envvar="TRIO_BROKER_CONFIG",
    show_envvar=True,
    help="Configuration as TOML; `trio-broker config init` writes one to start from.",
)
#: The same as an argument, for the commands that are about it.
file_argument = click.argument(
    "config_path", metavar="[FILE]", type=click.Path(), required=False, envvar="TRIO_BROKER_CONFIG"
)


def serve_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare the options of `serve` that set values, and hand them over as `options`."""
    decorators = (
        click.option(
            "--data-dir", metavar="DIR", help="Where everything is kept (default: ./data)."
        ),
        click.option(
            "--listen",
            "listeners",
            metavar="HOST:PORT",
            multiple=True,
            help="Address to listen on, port 0 for any; may be repeated (default: 127.0.0.1:9092).",
        ),
        click.option(
            "--advertise",
            "advertised",
            metavar="HOST:PORT",
            help="Address that clients are told to use, if it differs from the one listened on.",
        ),
        click.option(
            "--http",
            metavar="HOST:PORT|off",
            help="Address of health and metrics, port 0 for any (default: 127.0.0.1:9644).",
        ),
        click.option(
            "--http-token",
            metavar="TOKEN",
            help="What requests for more than a probe must carry, as 'Authorization: Bearer "
            "TOKEN'; better set as TRIO_BROKER_HTTP__TOKEN, which no process list shows.",
        ),
    )

    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def entries_of_options(
    *,
    data_dir: str | None,
    listeners: tuple[str, ...],
    advertised: str | None,
    http: str | None,
    http_token: str | None,
) -> Iterator[Entry]:
    """Yield what the options of `serve` set."""
    from trio_broker.settings.sources import option

    if data_dir is not None:
        yield option("--data-dir", "data_dir", data_dir)
    if listeners:
        yield option("--listen", "listeners", list(listeners))
    if advertised is not None:
        yield option("--advertise", "advertised", advertised)
    if http is not None:
        yield option("--http", "http.listen", "" if http == "off" else http)
    if http_token is not None:
        yield option("--http-token", "http.token", http_token)


def load_or_exit(
    path: str | None, assignments: Iterable[str], options: Iterable[Entry] = ()
) -> Resolved:
    """Build the configuration of a server, or tell every mistake and end the process.

    The sources are those of `serve`: file, environment, ``-X``, options.
    """
    from trio_broker.errors import ConfigError
    from trio_broker.host.config_file import load

    try:
        return load(path, environ=os.environ, assignments=assignments, options=options, serve=True)
    except ConfigError as error:
        tell(error.faults)
        sys.exit(EXIT_USAGE)


def what_was_set(resolved: Resolved) -> str:
    """Name the keys that somebody set, by where: a forgotten variable is found in the log."""
    from trio_broker.settings.sources import DEFAULT, SERVE_DEFAULT

    keys: dict[str, list[str]] = {}
    for key, origin in resolved.origins.items():
        if origin not in {DEFAULT, SERVE_DEFAULT}:
            keys.setdefault(str(origin), []).append(key)
    parts = [f"{origin} sets {', '.join(names)}" for origin, names in keys.items()]
    return "; ".join(parts) or "defaults only"


def tell(faults: Iterable[str]) -> None:
    """Write mistakes to stderr, one a line."""
    for fault in faults:
        click.echo(f"configuration: {fault}", err=True)


def list_settings(context: click.Context, assignments: tuple[str, ...]) -> None:
    """Answer ``-X list`` and end the command."""
    if "list" in assignments:
        echo_settings()
        context.exit()


def echo_settings() -> None:
    """Print every key with its default and what it does."""
    from trio_broker.settings.page import describe
    from trio_broker.settings.table import settings
    from trio_broker.settings.values import plain_text

    for setting in settings().values():
        click.echo(f"{setting.key}={plain_text(setting, setting.serve_default)}")
        click.echo(f"    {describe(setting)}")
