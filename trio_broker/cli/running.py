"""Runs what a command does with a client, and turns every outcome into an exit code.

SIGINT and SIGTERM cancel the command, so that consumers leave their groups and nothing hangs in the
air; the second signal ends the process at once. Expected failures become one line on stderr, and no
traceback.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import trio

from trio_broker.cli.exits import EXIT_FAILED, EXIT_UNREACHABLE
from trio_broker.client.client import open_client
from trio_broker.client.connection import ConnectionLost, VersionMismatch
from trio_broker.client.errors import DeliveryTimedOut, RequestTimedOut, Unreachable
from trio_broker.client.options import ClientOptions
from trio_broker.config_checks import split_address
from trio_broker.errors import ErrorCode, ProtocolError, RequestError, TrioBrokerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from trio_broker.cli.options import Connect
    from trio_broker.client.client import Client

CLIENT_ID = "trio-broker-cli"
#: A refused connection is worth some attempts, since brokers restart; people wait for the answer.
START_SECONDS_MAX = 3.0
#: The same for topics, of which a broker may hear a little later than others.
TOPIC_SECONDS_MAX = 1.0
#: How often the same warning is shown.
WARNING_SECONDS = 10.0

_NO_ANSWER = (Unreachable, RequestTimedOut, ConnectionLost)


class Failed(TrioBrokerError):
    """A command cannot do what it was asked for; its text says why, and what to do."""


class Unhealthy(TrioBrokerError):
    """The cluster answers, and not as it should."""


class Interruption:
    """What signals do to a command.

    Attributes:
        signal_number: the first one that came, None if none did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None

    @contextmanager
    def cancels_this(self) -> Iterator[trio.CancelScope]:
        """Let the first signal cancel this block only, and not what is around it."""
        self._token = trio.lowlevel.current_trio_token()
        around = self._scope
        with trio.CancelScope() as scope:
            self._scope = scope
            try:
                yield scope
            finally:
                self._scope = around

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        if self._token is None or self.signal_number is not None:
            # Nothing has begun, or somebody insists.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal_number = number
        self._token.run_sync_soon(self._cancel)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()


def run_client(
    command: str,
    connect: Connect,
    work: Callable[[Client], Awaitable[None]],
    *,
    find_seconds_max: float = START_SECONDS_MAX,
) -> None:
    """Do something with a client; ends the process if that fails.

    Args:
        command: as it was typed, for messages: ``topic create``.
        connect: which cluster.
        work: what to do. It is cancelled by the first signal.
        find_seconds_max: how long to look for a broker.
    """
    run_interruptible(
        command, connect, lambda client, _: work(client), find_seconds_max=find_seconds_max
    )


def run_interruptible(
    command: str,
    connect: Connect,
    work: Callable[[Client, Interruption], Awaitable[None]],
    *,
    find_seconds_max: float = START_SECONDS_MAX,
) -> None:
    """Do something with a client that may decide what an interruption cancels.

    Args: as `run_client`; `work` may use `Interruption.cancels_this`.
    """
    try:
        for address in filter(None, (part.strip() for part in connect.bootstrap.split(","))):
            split_address(address)
    except ValueError as error:
        raise click.UsageError(f"--bootstrap: {error}") from None
    options = ClientOptions(
        client_id=CLIENT_ID,
        start_timeout_seconds=min(find_seconds_max, connect.timeout_seconds),
        connect_timeout_seconds=min(10.0, connect.timeout_seconds),
        call_timeout_seconds=connect.timeout_seconds,
        request_timeout_seconds=connect.timeout_seconds,
        topic_timeout_seconds=min(TOPIC_SECONDS_MAX, connect.timeout_seconds),
    )
    interruption = Interruption()

    async def main() -> None:
        with interruption.cancels_this():
            async with open_client(connect.bootstrap, options=options) as client:
                await work(client, interruption)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, interruption)
        with _warnings_on_stderr():
            trio.run(main)
    except TrioBrokerError as error:
        if interruption.signal_number is None:
            _report(command, connect, error)
            sys.exit(_exit_code(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        # Of files; what the network does to us arrives as one of the errors above.
        where = f"{error.filename}: " if error.filename else ""
        print(f"trio-broker {command}: {where}{error.strerror}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interruption.signal_number is not None:
        sys.exit(128 + interruption.signal_number)


class _Seldom(logging.Filter):
    """Lets the same warning through once in a while: retries have the same one each time."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record."""
        if record.created - self._shown.get(record.msg, -WARNING_SECONDS) < WARNING_SECONDS:
            return False
        self._shown[record.msg] = record.created
        return True


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Show what the client warns of, such as a broker that has gone and is waited for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.addFilter(_Seldom())
    package = logging.getLogger("trio_broker")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Failed) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, (*_NO_ANSWER, ProtocolError, Unhealthy)):
        return EXIT_UNREACHABLE
    if isinstance(error, DeliveryTimedOut) and isinstance(error.__cause__, (*_NO_ANSWER, OSError)):
        return EXIT_UNREACHABLE
    return EXIT_FAILED


def _report(command: str, connect: Connect, error: TrioBrokerError) -> None:
    print(f"trio-broker {command}: {error}", file=sys.stderr)
    for hint in _hints(connect, error):
        print(f"  {hint}", file=sys.stderr)


def _hints(connect: Connect, error: BaseException) -> Iterator[str]:
    """Yield what to do next."""
    if isinstance(error, Failed) and error.__cause__ is not None:
        error = error.__cause__
    if elsewhere := _told_to_connect_to(connect, error):
        yield (
            f"{connect.bootstrap} answers, and says that the broker is at {elsewhere}, which this "
            "machine cannot reach: `trio-broker serve --advertise` (advertised.listeners of Apache "
            "Kafka) sets what clients are told."
        )
    elif isinstance(error, Unreachable):
        yield (
            f"Is a broker running at {connect.bootstrap}? `trio-broker serve` starts one; "
            "-b HOST:PORT or TRIO_BROKER_BOOTSTRAP names another."
        )
    elif isinstance(error, ProtocolError):
        yield f"Does a Kafka broker listen at {connect.bootstrap}, without TLS?"
    elif isinstance(error, VersionMismatch):
        yield "The broker is too old, or does not serve this at all."
    elif isinstance(error, RequestError):
        hint = _HINTS.get(error.code)
        if hint:
            yield hint


def _told_to_connect_to(connect: Connect, error: BaseException) -> str | None:
    """Return the address that could not be reached, if a broker has told it, and not the user."""
    if not isinstance(error, (Unreachable, RequestTimedOut, DeliveryTimedOut)):
        return None
    found = _UNREACHED.search(str(error))
    given = {split_address(part.strip()) for part in connect.bootstrap.split(",") if part.strip()}
    if found is None or split_address(found[1]) in given:
        return None
    return found[1]


#: How `RealNetwork.connect` says that it cannot.
_UNREACHED = re.compile(r"cannot connect to (\S+:\d+):")

_HINTS = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: (
        "`trio-broker topic list` shows the topics there are, `topic create` makes one."
    ),
    ErrorCode.TOPIC_ALREADY_EXISTS: "`trio-broker topic describe` shows it.",
    ErrorCode.INVALID_REPLICATION_FACTOR: "Leave -r out: the brokers' default is taken then.",
    ErrorCode.INVALID_CONFIG: (
        "`trio-broker topic describe --all TOPIC` shows configs and their meaning."
    ),
    ErrorCode.GROUP_ID_NOT_FOUND: "`trio-broker group list` shows the groups there are.",
    ErrorCode.NON_EMPTY_GROUP: "Stop its consumers first; `trio-broker group describe` names them.",
    ErrorCode.MESSAGE_TOO_LARGE: (
        "The topic's max.message.bytes is the limit; `trio-broker topic alter` can raise it."
    ),
}
