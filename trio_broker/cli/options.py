"""Options that several commands have, and the kinds of values that are written on command lines.

Declarations only: imports click and nothing that takes long to load.
"""

from __future__ import annotations

import functools
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable

#: Where `trio-broker serve` listens unless it is told otherwise.
DEFAULT_BOOTSTRAP = "127.0.0.1:9092"

TABLE, JSON, JSON_LINES = "table", "json", "jsonl"


class Connect(NamedTuple):
    """Which cluster a command talks to.

    Attributes:
        bootstrap: addresses, separated by commas.
        timeout_seconds: how long the command goes on trying.
    """

    bootstrap: str
    timeout_seconds: float


def client_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that talks to a cluster; it gets them as `connect`."""

    @click.option(
        "-b",
        "--bootstrap",
        metavar="HOST:PORT",
        envvar="TRIO_BROKER_BOOTSTRAP",
        show_envvar=True,
        default=DEFAULT_BOOTSTRAP,
        show_default=True,
        help="Some brokers of the cluster, separated by commas.",
    )
    @click.option(
        "--timeout",
        "timeout_seconds",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="How long to go on trying what is worth another attempt.",
    )
    @functools.wraps(function)
    def with_connect(*args: object, bootstrap: str, timeout_seconds: float, **rest: object) -> Any:
        return function(*args, connect=Connect(bootstrap, timeout_seconds), **rest)

    return with_connect


def output_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-O table|json|jsonl``; the command gets it as `output`."""
    add = click.option(
        "-O",
        "--output",
        type=click.Choice([TABLE, JSON, JSON_LINES]),
        default=TABLE,
        show_default=True,
        help="How to write the result on stdout.",
    )
    return add(function)


def yes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--yes`` to a command that destroys something; see `confirm`."""
    add = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    return add(function)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal before something is destroyed.

    Raises:
        click.UsageError: there is nobody to ask, and ``--yes`` was not given.
        click.Abort: the answer is an interrupt.
        click.ClickException: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to be asked: give --yes.")
    # Of an interruption in the middle of a question nobody else would hear.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agreed = click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
    if not agreed:
        raise click.ClickException("nothing was done")


class Assignment(click.ParamType):  # type: ignore[type-arg]  # since click 8.2
    """``KEY=VALUE``; the value may contain further equal signs."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return key and value."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key.strip():
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key.strip(), text


class Moment(NamedTuple):
    """A point in time as it was written.

    Attributes:
        milliseconds: since 1970, or before now.
        is_ago: whether it counts backwards from now.
    """

    milliseconds: int
    is_ago: bool

    def at_ms(self, now_ms: int) -> int:
        """Return the milliseconds since 1970."""
        return max(0, now_ms - self.milliseconds) if self.is_ago else self.milliseconds


def parse_moment(text: str) -> Moment:
    """Read milliseconds since 1970, a date and time (ISO 8601, UTC unless it says), or ``2h``: ago.

    Raises:
        ValueError: it is none of them.
    """
    text = text.strip()
    if text.isdecimal():
        return Moment(int(text), is_ago=False)
    from datetime import UTC, datetime

    from trio_broker.settings.units import Unit, parse_quantity

    try:
        return Moment(round(parse_quantity(text.removeprefix("-"), Unit.MILLISECONDS)), is_ago=True)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write milliseconds since 1970, a date such as "
            "2026-11-29T16:00:00Z, or how long ago, such as 90m, 2h or 7d"
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    milliseconds = round(at.timestamp() * 1000)
    if milliseconds < 0:
        raise ValueError(f"{text!r} is before 1970")
    return Moment(milliseconds, is_ago=False)


class MomentType(click.ParamType):  # type: ignore[type-arg]  # since click 8.2
    """See `parse_moment`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Moment:
        """Return the moment."""
        if isinstance(value, Moment):
            return value
        try:
            return parse_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TopicPartitions(click.ParamType):  # type: ignore[type-arg]  # since click 8.2
    """``TOPIC``, or ``TOPIC:0,3,7`` for some of its partitions."""

    name = "topic[:partitions]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Return the name and the partitions, none of them for all."""
        if isinstance(value, tuple):
            return value
        topic, separator, rest = str(value).partition(":")
        numbers = rest.split(",") if separator else []
        if not topic or not all(number.strip().isdecimal() for number in numbers):
            self.fail(f"{value!r} is not TOPIC or TOPIC:PARTITION,PARTITION,...", param, ctx)
        return topic, tuple(int(number) for number in numbers)
