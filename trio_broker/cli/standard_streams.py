"""stdin and stdout as bytes, without stopping the event loop while the other side is slow.

Neither is made non-blocking: that would be so for everybody who shares the terminal or the pipe.
Instead the system is asked before each call whether it would wait, and calls are small enough to
be true to the answer: a pipe that can be written takes PIPE_BUF bytes at once (POSIX). Files and
devices that cannot be asked (``epoll`` refuses them) do not wait for anybody.

Where stdin or stdout is no descriptor of the system's but an object of Python's (under
`click.testing`, for example), it is used as it is.

Owns no descriptor it has not opened itself. Called by `consume_records` and `produce_records`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import TYPE_CHECKING, Self, TextIO

import trio

from trio_broker.errors import TrioBrokerError

if TYPE_CHECKING:
    from types import TracebackType

_PIPE_BYTES = select.PIPE_BUF
_PIECE_BYTES = 64 * 1024
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (io.UnsupportedOperation, ValueError):
        return None


class OutputBytes:
    """stdout, where data goes."""

    def __init__(self) -> None:
        self._descriptor = _descriptor_of(sys.stdout)
        self._poll = select.poll()
        if self._descriptor is not None:
            sys.stdout.flush()
            self._poll.register(self._descriptor, select.POLLOUT)
        self._can_wait = True

    async def write(self, data: bytes) -> None:
        """Write everything.

        Raises:
            BrokenPipeError: whoever read it has gone.
            OutputFailed: no space left, and so on.

        Cancellation: a part may have been written.
        """
        await trio.lowlevel.checkpoint()
        if self._descriptor is None:
            sys.stdout.buffer.write(data)
            return
        view = memoryview(data)
        while view:
            piece_bytes = _PIPE_BYTES if self._can_wait else _PIECE_BYTES
            if self._can_wait and not self._poll.poll(0):
                await self._wait_writable(self._descriptor)
                continue
            try:
                written = os.write(self._descriptor, view[:piece_bytes])
            except BrokenPipeError:
                raise
            except BlockingIOError:
                written = 0  # somebody else has made it non-blocking
            except OSError as error:
                raise OutputFailed(f"cannot write to stdout: {error.strerror}") from error
            view = view[written:]

    async def _wait_writable(self, descriptor: int) -> None:
        try:
            await trio.lowlevel.wait_writable(descriptor)
        except PermissionError:
            self._can_wait = False

    @property
    def is_abandoned(self) -> bool:
        """Whether whoever read it has gone, which nobody says as long as nothing is written."""
        return any(event & _GONE for _, event in self._poll.poll(0))


class OutputFailed(TrioBrokerError):
    """What is behind stdout does not take it."""


class RecordTooLong(TrioBrokerError):
    """There is no delimiter within the most bytes that a record may have."""


class InputPieces:
    """Records separated by a delimiter, from stdin or a file.

    Holds at most one record and 64 KiB.
    """

    def __init__(self, path: str | None, delimiter: bytes | None, record_bytes_max: int) -> None:
        """Say where from.

        Args:
            path: of a file; None: stdin.
            delimiter: between records, and after the last one if it is there; None: everything
                is one record.
            record_bytes_max: most bytes of a record.
        """
        self._path = path
        self._descriptor = None if path is not None else _descriptor_of(sys.stdin)
        self._delimiter = delimiter
        self._record_bytes_max = record_bytes_max
        self._rest = b""
        self._is_at_end = False
        self._can_wait = True

    def __enter__(self) -> Self:
        """Open the file. Raises OSError."""
        if self._path is not None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        if self._path is not None and self._descriptor is not None:
            os.close(self._descriptor)

    @property
    def size_bytes(self) -> int | None:
        """Size of the file, None if it is not one."""
        if self._descriptor is None:
            return None
        status = os.fstat(self._descriptor)
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    async def next_pieces(self) -> list[bytes]:
        """Return the next records, as many as came at once; none at the end.

        Raises:
            RecordTooLong: see there.
            OSError: reading failed.

        Cancellation: nothing is lost.
        """
        while not self._is_at_end:
            data = await self._read()
            self._is_at_end = not data
            if self._delimiter is None:
                pieces = [self._rest + data]
            else:
                pieces = (self._rest + data).split(self._delimiter)
            self._rest = pieces.pop()
            if len(self._rest) > self._record_bytes_max:
                raise RecordTooLong(
                    f"no end of the record within {self._record_bytes_max} bytes; "
                    "--record-bytes-max allows more"
                )
            if self._is_at_end and (self._rest or self._delimiter is None):
                pieces.append(self._rest)
                self._rest = b""
            if pieces:
                return pieces
        return []

    async def _read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._descriptor is None:
            return sys.stdin.buffer.read(_PIECE_BYTES)
        if self._can_wait:
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            except PermissionError:
                self._can_wait = False
        try:
            return os.read(self._descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return await self._read()  # somebody else has made it non-blocking
        except OSError as error:
            if error.errno == errno.EIO:
                return b""  # a terminal that has gone
            raise
