"""The seam between the broker and the machine: what `Host` offers, and on what terms.

Everything that touches disk, network, wall clock, randomness or threads goes through these
protocols. `trio_broker.host.real` implements them with system calls,
`trio_broker.testing.sim` with a simulated machine. Monotonic time is Trio's own clock.

Disk work is described as a *job*: a generator that yields calls of the synchronous `FileSystem`
and `File` methods and is sent their results. A `Lane` runs jobs, one at a time, in order:

- the real lane drives the whole generator on its own thread, so a job of several calls costs one
  hop and never blocks the event loop;
- the simulated lane drives it on the event loop and treats each yielded call as one step that can
  be delayed, fail, or be the moment of a crash.

A job may not touch state of the event loop while it runs: it gets what it needs as arguments and
returns what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from attrs import field, frozen

from trio_broker.host.leases import DescriptorLeases

if TYPE_CHECKING:
    import random
    from contextlib import AbstractContextManager
    from uuid import UUID

    import trio

    from trio_broker.host.facts import ProcessFacts

Buffer: TypeAlias = bytes | bytearray | memoryview
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: One step of a job: a bound method of File or FileSystem (or pure code), and its arguments. Where
#: keywords are needed the function is a `functools.partial` of the method.
Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
#: Disk work: yields calls, is sent each result (or thrown each OSError), returns a T.
Job: TypeAlias = Generator[Call, Any, T]

#: Most buffers that one vectored write may carry (IOV_MAX on Linux).
WRITE_BUFFERS_MAX = 1024


class Space(NamedTuple):
    """Room on the filesystem of a path. Free counts what an unprivileged process may use."""

    total_bytes: int
    free_bytes: int
    free_inodes: int


class FileInfo(NamedTuple):
    """What `FileSystem.stat` says of a path."""

    size_bytes: int
    modified_ms: int
    is_directory: bool


class OpenFile(NamedTuple):
    """One row of the handle ledger: a file that is open now, and whose it is.

    `opened_at` is civil time in seconds since the Unix epoch, for people; `size_bytes` is what the
    disk cannot have back before it is closed, should the file lose its name.
    """

    path: str
    owner: str
    opened_at: float
    size_bytes: int


class File(Protocol):
    """One open file. Synchronous: call only inside a job, except where a method says otherwise.

    Every method may raise OSError. Two operations on one file never overlap (lanes see to that).
    """

    @property
    def path(self) -> str:
        """Path given to `FileSystem.open`."""

    @property
    def owner(self) -> str:
        """Who must close it, for example ``replica/<topic id>-0``."""

    @property
    def size(self) -> int:
        """Length in bytes, tracked, never a system call. Safe on the event loop."""

    @property
    def is_spare(self) -> bool:
        """Whether the process had no descriptor left but a spare one: close it at once after use.

        See `FileSystem.spare_descriptors`.
        """

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> int:
        """Write at most `WRITE_BUFFERS_MAX` buffers with one system call; return the bytes written.

        May write less than asked (a nearly full disk): use `jobs.append_all`, which loops.
        """

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes, or fewer only at the end of the file."""

    def read_cached(self, offset: int, length: int) -> Buffer | None:
        """Return what `read_at` would if no disk access is needed, else None. Never blocks.

        Safe on the event loop. None also where the filesystem cannot tell (tmpfs, macOS).
        """

    def forget_cached(self, offset: int) -> bool:
        """Let the next read from `offset` on ask the disk, and not what is cached of it.

        For who has to know what a failed fsync has left. Only of what is synced: changes that are
        not stay cached. Returns whether the system can be told that.
        """

    def truncate(self, size: int) -> None:
        """Cut (or extend with zeros) to `size` bytes."""

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long, filled with zeros, with room on the disk for all."""

    @property
    def reserved_end(self) -> int:
        """Up to where the file is known to have room on the disk: `size`, or more by `reserve`.

        Never a system call.
        """

    def reserve(self, end: int) -> None:
        """Set room aside on the disk up to byte `end`; the file ends where it did.

        A hint, for who will soon write there: where it is not possible nothing happens. `truncate`
        gives the room back, `close` does not.
        """

    def sync(self) -> None:
        """Make everything written so far durable (fdatasync).

        After a failure the file is tainted: each further call raises OSError(EIO) at once.
        """

    def close(self) -> None:
        """Give the descriptor back. Idempotent. Safe on the event loop.

        While a job's call on this file is still in a system call, the descriptor is kept until
        that call returns, since its number must not be used again under a running thread.
        """


class DirectoryLock(Protocol):
    """An exclusive lock on a directory, held until `release`."""

    def release(self) -> None:
        """Let go. Idempotent."""


class FileSystem(Protocol):
    """Names and space. Synchronous: call only inside a job, except where a method says otherwise.

    Every method may raise OSError. A name is durable only after `sync_directory` of its parent.
    """

    def open(self, path: str, owner: str, *, create: bool = False, read_only: bool = False) -> File:
        """Open for reading and writing. `create` makes a missing file (mode 0600), never truncates.

        Refuses to follow a symbolic link as the last component.
        """

    def rename(self, source: str, target: str) -> None:
        """Atomically give `source` the name `target`, replacing a file of that name."""

    def unlink(self, path: str) -> None:
        """Remove the name of a file. Its space returns when its last descriptor closes."""

    def make_directory(self, path: str, *, exist_ok: bool = False) -> None:
        """Create one directory (mode 0700); its parent must exist."""

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def stat(self, path: str) -> FileInfo | None:
        """Describe a path without following a link, or return None if there is none."""

    def sync_directory(self, path: str) -> None:
        """Make the names created, renamed and removed in this directory durable."""

    def space(self, path: str) -> Space:
        """Return the room on the filesystem that holds `path`."""

    def lock_directory(self, path: str, description: str) -> DirectoryLock:
        """Lock `path`/.lock (flock); `description` is written into it for people to read.

        Raises:
            LogDirInUse: someone else holds it; the message says who.
        """

    def descriptor_paths(self, directories: Sequence[str]) -> list[str]:
        """Return what this process has open below `directories`, by whatever means it was opened.

        Each path begins with the directory as given; a file that has lost its name ends in
        `` (deleted)``.
        """

    def open_files(self, owners: Collection[str] | None = None) -> Sequence[OpenFile]:
        """Return the files that are open through this object. Safe on the event loop.

        Args:
            owners: whose, which is quicker where there are thousands; None: everybody's.
        """

    def spare_descriptors(self, count: int) -> AbstractContextManager[None]:
        """Hold `count` descriptors back for the length of a block. Safe on the event loop.

        With none left to the process, files are opened with these (`File.is_spare`), so that who
        is served already goes on being served; and listeners of the same host use them to turn
        clients away.
        """


class Lane(Protocol):
    """Runs disk jobs one after another, in order of arrival."""

    @property
    def name(self) -> str:
        """Name for logs and thread listings."""

    @property
    def stuck_seconds(self) -> float:
        """How long the system call now running has been running, 0.0 if none is. For health."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Deliver results until cancelled. The task tree starts it before the first `run`.

        On cancellation queued jobs fail with StuckIO or end, and the thread is told to end; it is
        not waited for when a system call holds it.
        """

    async def run(self, job: Job[T]) -> T:
        """Run a job to its end and return its result, or raise what it raised.

        Cancellation is delivered only before the job starts: then nothing of it was done. Once
        started it is awaited, at most for the lane's operation deadline per system call.

        Raises:
            StuckIO: the deadline passed; the call still runs and files it uses are tainted. Also
                at once, with nothing of the job done, while an earlier call is stuck and after the
                lane was stopped.
        """

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run one call as a job of its own."""

    def limit_stop(self, deadline: float) -> None:
        """Once `serve` is cancelled, wait for a running call until `deadline` (Trio time) only."""

    def limit_calls(self, seconds: float) -> None:
        """Let calls, the running one included, take no longer than `seconds`.

        The lane's own operation deadline stays an upper bound. For the phases of a stop: who waits
        for a call that hangs can be cancelled no sooner than the call is given up.
        """


class Stream(Protocol):
    """A connected byte stream. One task receives; sends are never concurrent with each other."""

    @property
    def peer(self) -> str:
        """Remote address for logs and quotas, ``host:port``."""

    async def receive_into(self, buffer: memoryview, expected_bytes: int = 1) -> int:
        """Wait for bytes, put at most len(buffer) of them into it, return how many (0: end).

        With `expected_bytes` the caller says that fewer than these are of no use to it yet (the
        rest of a frame). The stream may wait until it has a good part of them, and may return
        sooner: an end or a fault of the connection is never waited out.

        Lets other tasks run in any case, so who does nothing else in between keeps nobody waiting.

        Cancellation: nothing was received. Raises trio.BrokenResourceError, ClosedResourceError.
        """

    def send_nowait(self, buffer: Buffer) -> int:
        """Hand over what fits without waiting; return the number of bytes (possibly 0).

        Raises trio.BrokenResourceError, ClosedResourceError.
        """

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers in order. Cancellation: an unknown part was sent; close the stream.

        May return without having let other tasks run, when everything fits at once.
        """

    def is_abandoned(self) -> bool:
        """Whether the peer has closed or reset the connection and left nothing to read.

        Never blocks, and takes nothing from the stream. False also of a peer that has fallen
        silent, and while something is left to read; True after `close`.
        """

    def has_peer_left(self) -> bool:
        """Whether the peer has closed or reset the connection, whatever is left to read.

        Never blocks, and takes nothing from the stream. A peer that has closed its sending side
        only is taken for gone too. Where the system cannot tell (other than on Linux) it is the
        same as `is_abandoned`.
        """

    def close(self) -> None:
        """Close at once, in both directions. Idempotent; wakes tasks waiting in this stream."""


class Listener(Protocol):
    """A bound address that accepts connections once it listens."""

    @property
    def host(self) -> str:
        """Address bound to."""

    @property
    def port(self) -> int:
        """Port bound to, the real one where 0 was asked for."""

    def listen(self) -> None:
        """Take clients from now on; before, they are refused. Idempotent.

        Raises:
            OSError: EADDRINUSE: somebody else listens there since it was bound.
        """

    async def accept(self) -> Stream:
        """Wait for the next connection. May raise OSError (EMFILE, ENFILE, ECONNABORTED, ...)."""

    @property
    def turned_away(self) -> int:
        """How many clients were closed at once because there was no descriptor for them, ever."""

    def close(self) -> None:
        """Stop listening; a waiting `accept` raises trio.ClosedResourceError. Idempotent."""


class Network(Protocol):
    """Sockets, real or simulated."""

    async def bind(self, host: str, port: int) -> Sequence[Listener]:
        """Take every address `host` resolves to, without listening yet.

        Raises:
            OSError: an address cannot be had; it is named, and nothing stays bound.
        """

    async def listen(self, host: str, port: int) -> Sequence[Listener]:
        """Take every address `host` resolves to, and listen there. Raises OSError as `bind`."""

    async def connect(self, host: str, port: int) -> Stream:
        """Connect. Raises OSError."""

    def send_datagram(self, path: str, payload: bytes) -> None:
        """Hand a datagram to the Unix socket at `path`, or lose it; never blocks.

        Args:
            path: of the socket; one that begins with '@' names an abstract socket (Linux).
            payload: at most a few hundred bytes.

        Raises:
            OSError: nobody is there, or their queue is full.
        """


class WallClock(Protocol):
    """Civil time: for record timestamps and retention only, never for deadlines."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump in both directions."""


class Entropy(Protocol):
    """Where randomness comes from."""

    def random(self, stream: str) -> random.Random:
        """Return a generator for the named purpose; the same object for the same name."""

    def uuid(self) -> UUID:
        """Return a fresh random (version 4) UUID, never one that Kafka reserves."""


@frozen
class Host:
    """The machine a broker runs on. Passed explicitly; there is no global one.

    Attributes:
        name: for logs, and for telling simulated machines apart.
        fs: files and directories.
        network: sockets.
        wall: civil time.
        entropy: randomness.
        open_lane: makes a lane with that name; arguments are (name, operation deadline seconds).
        simulated: True on a simulated machine; `open_broker` checks it against the clock in use.
        descriptors_max: how many descriptors this process may have (RLIMIT_NOFILE).
        process_facts: tells what this process uses, for a job; None on a simulated machine.
        open_descriptors: tells how many of them are open now; safe on the event loop.
        descriptor_leases: who has which share of them; one object for each process.
    """

    name: str
    fs: FileSystem
    network: Network
    wall: WallClock
    entropy: Entropy
    open_lane: Callable[[str, float], Lane]
    simulated: bool = False
    descriptors_max: int = 1024
    process_facts: Callable[[], ProcessFacts] | None = None
    open_descriptors: Callable[[], int] = lambda: 0
    descriptor_leases: DescriptorLeases = field(factory=DescriptorLeases)
