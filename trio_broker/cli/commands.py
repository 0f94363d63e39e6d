"""The commands. Each turns its arguments into one call and the outcome into an exit code.

What a command needs is imported when it runs: this file, and every file that declares commands,
imports click and little else, so that help and completion answer at once (pinned by a test).

Exit codes of `serve`: 0 stopped in order, 1 failed, 2 usage or configuration, 3 forced. Those of
the others are in `exits`.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from functools import partial
from typing import Any

import click

from trio_broker import __version__
from trio_broker.cli.cluster import cluster
from trio_broker.cli.completion import completion
from trio_broker.cli.config_commands import config_group
from trio_broker.cli.configuration import (
    assignments_option,
    entries_of_options,
    file_option,
    list_settings,
    load_or_exit,
    serve_options,
    what_was_set,
)
from trio_broker.cli.consume import consume
from trio_broker.cli.doctor import doctor
from trio_broker.cli.exits import EXIT_FAILED, EXIT_USAGE, ReaderGone
from trio_broker.cli.group import group
from trio_broker.cli.main import forget_output
from trio_broker.cli.produce import produce
from trio_broker.cli.sim import sim
from trio_broker.cli.topic import topic


class CommandLine(click.Group):
    """The group of everything."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises ReaderGone instead of BrokenPipeError."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trio-broker")
def command_line() -> None:
    """A message broker that speaks the Apache Kafka protocol."""


# Each group of commands has a file of its own.
for _command in (cluster, completion, config_group, consume, doctor, group, produce, sim, topic):
    command_line.add_command(_command)


def _announce(protocol: str, addresses: list[tuple[str, int]]) -> None:
    """Tell whoever started the process where to connect: one line per address, flushed.

    Clients are served whether or not it can be told: stdout may be a pipe that nobody reads any
    more, or a file on a disk that is full.
    """
    for host, port in addresses:
        shown = f"[{host}]" if ":" in host else host
        line = f"listening {protocol}://{shown}:{port}"
        try:
            click.echo(line)
        except OSError as error:
            forget_output()
            logging.getLogger("trio_broker.serve").warning(
                "stdout does not take %r: %s", line, error.strerror
            )


@command_line.command()
@file_option
@serve_options
@assignments_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="TRIO_BROKER_LOG_LEVEL",
    show_envvar=True,
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    envvar="TRIO_BROKER_LOG_FORMAT",
    show_envvar=True,
    help="auto: text on a terminal, else one JSON object a line.",
)
@click.pass_context
def serve(
    context: click.Context,
    /,
    config_path: str | None,
    assignments: tuple[str, ...],
    log_level: str,
    log_format: str,
    **options: Any,
) -> None:
    """Run a broker until SIGTERM or SIGINT.

    Prints one line `listening kafka://HOST:PORT` per address on stdout once it serves, and one
    `listening http://HOST:PORT` for health and metrics; logs go to stderr. Exit code: 0 stopped in
    order, 1 failed, 2 usage or configuration, 3 forced stop.
    """
    list_settings(context, assignments)
    resolved = load_or_exit(config_path, assignments, entries_of_options(**options))
    config = resolved.config
    import trio

    from trio_broker.broker.http_server import missing_libraries
    from trio_broker.broker.server_main import run_server
    from trio_broker.broker.service_notifier import ServiceManager
    from trio_broker.cli.logs import logging_to_stderr
    from trio_broker.cli.start_failures import hint_for, text_of_failure
    from trio_broker.errors import ConfigError, TrioBrokerError
    from trio_broker.settings.resolve import without_effect

    if config.http.listen is not None and (missing := missing_libraries()):
        click.echo(
            f"trio-broker: health and metrics over HTTP need {', '.join(missing)}: "
            "pip install 'trio-broker[server]', or run with --http off",
            err=True,
        )
        sys.exit(EXIT_USAGE)

    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    with logging_to_stderr(log_level, as_json=as_json):
        logger = logging.getLogger("trio_broker.serve")
        logger.info(
            "trio-broker %s, Python %s, Trio %s",
            __version__,
            platform.python_version(),
            trio.__version__,
        )
        logger.info("configuration: %s", what_was_set(resolved))
        for sentence in without_effect(resolved):
            logger.warning("configuration: %s", sentence)
        try:
            code = trio.run(
                partial(
                    run_server,
                    config,
                    announce=_announce,
                    service_manager=ServiceManager.from_environment(os.environ, os.getpid()),
                )
            )
        except (TrioBrokerError, OSError) as error:
            click.echo(f"trio-broker: cannot start: {text_of_failure(error)}", err=True)
            if not isinstance(error, ConfigError):
                click.echo(f"  {hint_for(error)}", err=True)
            # A directory of another node is a mistake that stays: nobody should start it again.
            code = EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    sys.exit(code)


@command_line.command()
@click.option("--records", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option("--record-bytes", default=100, show_default=True, type=click.IntRange(16, 100_000))
@click.option(
    "--durability",
    type=click.Choice(["fsync", "interval", "os"]),
    default="fsync",
    show_default=True,
    help="What an acknowledgement means.",
)
def demo(records: int, record_bytes: int, durability: str) -> None:
    """Start a broker, send and read back records through a real socket, and show the numbers.

    Everything happens in a temporary directory that is removed at the end.
    """
    import trio

    from trio_broker.cli.demo import run_demo
    from trio_broker.errors import TrioBrokerError

    try:
        trio.run(run_demo, records, record_bytes, durability)
    except (TrioBrokerError, OSError) as error:
        click.echo(f"trio-broker demo: {error}", err=True)
        sys.exit(EXIT_FAILED)


@command_line.group()
def log() -> None:
    """Read logs on disk, without a running broker. Changes nothing."""


_LOG_PATH = click.argument("path", type=click.Path(exists=True, file_okay=False))


@log.command("inspect")
@_LOG_PATH
@click.option("--batches", is_flag=True, help="List every batch.")
@click.option("--records", is_flag=True, help="List every record under its batch.")
@click.option("--from-offset", default=0, show_default=True, type=click.IntRange(min=0))
def log_inspect(path: str, *, batches: bool, records: bool, from_offset: int) -> None:
    """Describe the logs at or under PATH: a partition's directory, a log dir, or a data dir."""
    from trio_broker.cli.log_tools import inspect_lines
    from trio_broker.errors import TrioBrokerError

    lines = inspect_lines(path, batches=batches, records=records, from_offset=from_offset)
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:
        raise
    except (TrioBrokerError, OSError) as error:
        click.echo(f"trio-broker log: {error}", err=True)
        sys.exit(EXIT_FAILED)


@log.command("verify")
@_LOG_PATH
def log_verify(path: str) -> None:
    """Read every byte of the logs at or under PATH and tell what is wrong.

    Findings are `damage` (below the last recovery point: the log will not open), `tail` (behind it:
    after a crash the next start cuts it off) or `derived` (is rebuilt when needed). Exit code 1 if
    there is damage or a tail that is not sound.
    """
    from trio_broker.cli.log_tools import verify_lines
    from trio_broker.errors import TrioBrokerError

    found = False
    try:
        for line, is_bad in verify_lines(path):
            click.echo(line)
            found = found or is_bad
    except BrokenPipeError:
        raise
    except (TrioBrokerError, OSError) as error:
        click.echo(f"trio-broker log: {error}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(EXIT_FAILED if found else 0)
