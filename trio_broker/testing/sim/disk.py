"""A simulated filesystem whose power can fail, for everything that claims to be durable.

Implements `FileSystem` and `File` of `trio_broker.host.interface`. Used inside jobs: by a
`SimLane` on the event loop, or directly where no Trio runs. A call from a Trio task outside a
lane is an AssertionError, because on a real disk it would stop the event loop.

Fault model
    - Page cache and platter differ. Each file has ordered pending writes and changes of length;
      only `sync` makes them durable. A power cut leaves of each pending write nothing, some
      sectors of 512 bytes (the others zeros or old bytes), its first bytes, or all of it; of
      each pending change of length all or nothing; each drawn alone, or as an ordered beginning.
    - Names are durable only after `sync_directory` of their own directory; syncing a file does
      not help, neither does syncing another directory. A power cut leaves a prefix (or any
      subset) of the pending name changes. A rename is atomic, between directories too, and says
      nothing of the content: a file renamed before it was synced may come back empty.
    - A failed `sync` loses a drawn part of the pending changes for good; readers go on seeing
      them until the power fails or `forget_cached`; the next sync, through another handle,
      succeeds ("fsyncgate"). New blocks that were lost stay lost when they are written again.
    - A failed write may have put its first bytes into the file. A failed `sync_directory` makes
      nothing durable; a later one can (a journal either works or takes the filesystem down).
    - A full disk first writes short, then fails with ENOSPC; cutting, syncing, renaming,
      unlinking and overwriting in place go on working. Unlinked files count until closed.
      With `quota_reached` the same for some paths, whatever room there is.
    - Reads, writes, syncs and names fail with EIO by rate; chosen operations with any errno.
    - Too many open files (EMFILE, once spare descriptors are in use too), no inodes left (ENOSPC).
    - Slow operations, and operations that hang (`freeze`, `hang_rate`): see `lane`.
    - Power loss at a chosen operation (`crash_at`), before or after its effect, or at any time
      (`power_off`). From then on every call raises `NodeDead`.
    - Bit rot on request (`rot`, `damage`).
    - All of it below one directory only, with everything beside it in order (`failing_below`).
    - A handle whose `sync` failed refuses everything with EIO; one with an operation that hangs
      past a lane's deadline refuses everything with StuckIO until it has come back; its close,
      and the release of a lock on its directory, wait for that.
    Not modelled: misdirected writes, two machines that share a disk, links of either kind.

`crash` returns the disk that the machine finds when its power is back, `restart` the one that a
new process finds after the old one was killed.
"""

from __future__ import annotations

import errno
import posixpath
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import trio
from attrs import evolve

from trio_broker.errors import LogDirInUse
from trio_broker.host.interface import FileInfo, OpenFile, Space
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.handles import SimDirectoryLock, SimFile
from trio_broker.testing.sim.inodes import BLOCK_BYTES, Directory, Inode, write_into
from trio_broker.testing.sim.path_faults import (
    FaultyPaths,
    PathFaults,
    drawn_latency,
    error_rate,
)
from trio_broker.testing.sim.streams import RandomStreams
from trio_broker.testing.sim.volume import ENDLESS_BYTES, Volume, os_error

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterator, Sequence

#: Receives one simulated event for the trace: what happened, and numbers that belong to it.
Note: TypeAlias = "Callable[..., None]"

#: Operations of its past that a disk remembers.
HISTORY_MAX = 10_000
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Operation(NamedTuple):
    """One operation of a disk's history: what a sweep reports."""

    number: int
    call: str
    path: str


class RunningOperation:
    """Context of one operation: counts it, draws its fault, and may cut the power around it.

    Attributes:
        path: what it works on.
        random: where its draws come from.
        error_number: errno it shall fail with, 0 for none.
    """

    __slots__ = ("_dies_after", "_fs", "error_number", "path", "random")

    def __init__(self, fs: SimFileSystem, call: str, path: str) -> None:
        self._fs = fs
        self.path = path
        self.random = fs.draws("faults")
        self.error_number, self._dies_after = fs.begin_operation(call, path, self.random)

    def raise_error(self) -> None:
        """Raise the fault that was drawn for this operation, if one was."""
        if self.error_number:
            raise os_error(self.error_number, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._dies_after:
            self._fs.power_off()
            raise NodeDead from None


class SimFileSystem:
    """A disk with names, space, and faults; see the module's text for the fault model.

    Attributes:
        name: for traces, and to tell the disks of several machines apart.
        faults: what may go wrong from now on; may be replaced at any time (`capacity_bytes` and
            `inodes_max` included).
        operation_count: operations so far; the number of the latest one.
        history: the latest operations, in order.
        now_ms: civil time of the machine.
        on_power_off: functions called, in order, when the power fails.
    """

    def __init__(
        self,
        streams: RandomStreams | int = 0,
        *,
        name: str = "disk",
        faults: DiskFaults | None = None,
        now_ms: Callable[[], int] | None = None,
        note: Note | None = None,
        power_may_fail: bool = True,
    ) -> None:
        """Make an empty disk.

        Args:
            streams: where randomness comes from, or a seed for it.
            name: prefix of the names of its random streams.
            faults: none but those of a power cut if not given.
            now_ms: civil time for `stat`; a constant if not given.
            note: told every operation, for the trace.
            power_may_fail: False saves the memory and time of keeping track of what a power cut
                would leave; then there is no `crash`, only `restart`.
        """
        self._streams = RandomStreams(streams) if isinstance(streams, int) else streams
        self.name = name
        self.operation_count = 0
        self.history: deque[Operation] = deque(maxlen=HISTORY_MAX)
        self.on_power_off: list[Callable[[], None]] = []
        self.now_ms: Callable[[], int] = now_ms or (lambda: 1_700_000_000_000)
        self._note = note
        self._volume = Volume(capacity_bytes=None, inodes_max=None, power_may_fail=power_may_fail)
        self.faults = DiskFaults() if faults is None else faults
        self._faulty_paths = FaultyPaths()
        self._files: dict[SimFile, None] = {}
        self._spares = 0
        self._locks: dict[str, SimDirectoryLock] = {}
        self._leaving: list[SimDirectoryLock] = []
        self._calls: dict[object, str] = {}
        self._powerless = trio.Event()
        self._thawed: trio.Event | None = None
        self._in_step = False
        self._life = 1

    def __repr__(self) -> str:
        state = "on" if self.alive else "off"
        return f"<SimFileSystem {self.name} power {state}, {self.operation_count} operations>"

    @property
    def faults(self) -> DiskFaults:
        """What may go wrong from now on."""
        return self._faults

    @faults.setter
    def faults(self, faults: DiskFaults) -> None:
        self._faults = faults
        self._volume.capacity_bytes = faults.capacity_bytes
        self._volume.inodes_max = faults.inodes_max

    # ------------------------------------------------------- for tests to look at; no operations

    @property
    def alive(self) -> bool:
        """False once the power has failed."""
        return not self._powerless.is_set()

    @property
    def used_bytes(self) -> int:
        """Space taken, in whole blocks, unlinked open files included."""
        return self._volume.used_blocks * BLOCK_BYTES

    def count_calls(self) -> Counter[str]:
        """Return how often each call was made, as far as `history` goes back."""
        return Counter(operation.call for operation in self.history)

    def content(self, path: str) -> bytes:
        """Return what a reader of the file would see."""
        return bytes(self._volume.file(path).data)

    def tree(self) -> dict[str, bytes | None]:
        """Return every path in order, with its content (None for directories)."""
        return self._volume.tree()

    # ------------------------------------------------------------ for tests to do; no operations

    def prepare_directory(self, path: str) -> None:
        """Make a directory and its parents, durable at once."""
        self._volume.prepare_directory(path, self.now_ms())

    def rot(self, path: str, *, bits: int = 1) -> None:
        """Flip drawn bits of a file, in memory and on the platter."""
        inode = self._volume.file(path)
        random = self.draws("rot")
        for _ in range(bits):
            position, mask = random.randrange(len(inode.data)), 1 << random.randrange(8)
            inode.data[position] ^= mask
            if position < len(inode.durable):
                inode.durable[position] ^= mask

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Overwrite bytes of a file, in memory and on the platter."""
        inode = self._volume.file(path)
        write_into(inode.data, offset, data)
        write_into(inode.durable, offset, data)

    def set_faults_below(self, path: str, faults: PathFaults | None) -> None:
        """Say what goes wrong with a directory and all that is in it, beside `faults`.

        It holds until it is said anew for the same path, or taken back with None, also after a
        power cut and in the next process. A file is where its path was when it was opened.

        Raises:
            ValueError: the path is not absolute.
        """
        self._faulty_paths.set(path, faults)

    @contextmanager
    def failing_below(self, path: str, faults: PathFaults) -> Iterator[None]:
        """Let things go wrong below a path for the length of a block; see `set_faults_below`."""
        self.set_faults_below(path, faults)
        try:
            yield
        finally:
            self.set_faults_below(path, None)

    def freeze(self) -> None:
        """Let every operation that is in a lane hang until `thaw`."""
        if self._thawed is None:
            self._thawed = trio.Event()

    def thaw(self) -> None:
        """Let hanging operations go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    def power_off(self) -> None:
        """Cut the power: from now on every call raises `NodeDead`. Idempotent."""
        if not self.alive:
            return
        self._powerless.set()
        if self._note is not None:
            self._note(f"{self.name} power off", self.operation_count)
        self.thaw()
        self._faulty_paths.wake()
        for callback in self.on_power_off:
            callback()

    def crash(self) -> SimFileSystem:
        """Cut the power and return the disk as it is found when the power is back.

        Operations count from 1 again; `crash_at`, `fail_at` and `fail_from` do not carry over.
        """
        assert self._volume.power_may_fail, "nothing was kept for a power cut"
        self.power_off()
        return self._successor(
            self._volume.after_power_cut(
                self.draws("crash"),
                names_prefix=self.faults.names_lost == "prefix",
                writes_ordered=self.faults.writes_lost == "ordered",
            )
        )

    def restart(self) -> SimFileSystem:
        """Kill the process and return the disk for a new one: the page cache survives."""
        self.power_off()
        return self._successor(self._volume.after_process_end())

    def _successor(self, volume: Volume) -> SimFileSystem:
        after = SimFileSystem(self._streams, name=self.name, now_ms=self.now_ms, note=self._note)
        after._volume = volume
        after.faults = evolve(self.faults, crash_at=None, fail_at=None, fail_from=None)
        after._faulty_paths = self._faulty_paths
        after._life = self._life + 1
        return after

    # ------------------------------------------------------------------- what files and lanes use

    def draws(self, purpose: str) -> random.Random:
        """Return this disk's own stream of that purpose."""
        return self._streams.stream(f"{self.name}/{self._life}/{purpose}")

    def check_alive(self) -> None:
        """Raise NodeDead if the power has failed."""
        if not self.alive:
            raise NodeDead

    def step(self, function: Callable[..., object], args: tuple[object, ...]) -> object:
        """Run one call of a job, with this disk's operations allowed on the event loop."""
        self._in_step = True
        try:
            return function(*args)
        finally:
            self._in_step = False

    def delay_seconds(self, call: str, path: str) -> float:
        """Draw how long an operation takes in a lane; inf if it hangs for good."""
        faults = self.faults
        random = self.draws("latency")
        delay = drawn_latency(faults, call, random)
        if faults.hang_rate and random.random() < faults.hang_rate:
            delay += faults.hang_seconds
        if self._faulty_paths:
            delay = max(delay, self._faulty_paths.delay_seconds(call, path, random))
        return delay

    async def spend(self, seconds: float, path: str) -> None:
        """Pass the time an operation takes: `seconds`, and as long as disk or path is frozen.

        Ends early when the power fails. Cancellation: just stops waiting.
        """
        if seconds <= 0:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(seconds):
                await self._powerless.wait()
        while self._thawed is not None:
            await self._thawed.wait()
        while self.alive and self._faulty_paths.is_frozen(path):
            await self._faulty_paths.wait_changed()

    def operation(self, call: str, path: str) -> RunningOperation:
        """Begin one operation; raises NodeDead when the power is or goes off."""
        return RunningOperation(self, call, path)

    def begin_operation(self, call: str, path: str, random: random.Random) -> tuple[int, bool]:
        """Count an operation; return (errno or 0, whether the power fails after its effect)."""
        self.check_alive()
        if not self._in_step and trio.lowlevel.in_trio_task():
            raise AssertionError(f"{call} of {path} would block the event loop: use a lane")
        number = self.operation_count = self.operation_count + 1
        self.history.append(Operation(number, call, path))
        if self._note is not None:
            self._note(f"{self.name} {call} {path}", number)
        dies_after = False
        if self.faults.crash_at is not None and number >= self.faults.crash_at:
            if random.random() < 0.5:
                self.power_off()
                raise NodeDead
            dies_after = True
        return self._drawn_error(number, call, path, random), dies_after

    def _drawn_error(self, number: int, call: str, path: str, random: random.Random) -> int:
        faults = self.faults
        if faults.fail_at is not None and number == faults.fail_at[0]:
            return faults.fail_at[1]
        if faults.fail_from is not None and number >= faults.fail_from[0]:
            return faults.fail_from[1]
        rate = error_rate(faults, call)
        if rate and random.random() < rate:
            return errno.EIO
        return self._faulty_paths.drawn_error(call, path, random) if self._faulty_paths else 0

    def write(self, inode: Inode, offset: int, data: bytes, operation: RunningOperation) -> int:
        """Put what fits of `data` into a file; return how much that was."""
        if not data:
            return 0
        if inode.next_write_error:
            number, inode.next_write_error = inode.next_write_error, 0
            raise os_error(number, operation.path)
        random = operation.random
        length = min(len(data), self._room(inode, offset, operation.path))
        if operation.error_number in _OUT_OF_SPACE and len(data) > 1:
            inode.next_write_error = operation.error_number
            length = min(length, random.randrange(1, len(data)))
        elif operation.error_number:
            part = data[: random.randrange(length + 1)]
            self._volume.write(inode, offset, part, self.now_ms())
            operation.raise_error()
        elif self._is_short(operation):
            length = min(length, random.randrange(1, len(data) + 1))
        if length == 0:
            raise os_error(errno.ENOSPC, operation.path)
        self._volume.write(inode, offset, data[:length], self.now_ms())
        return length

    def _is_short(self, operation: RunningOperation) -> bool:
        rate = self.faults.short_write_rate
        if self._faulty_paths:
            rate = max(rate, self._faulty_paths.short_write_rate(operation.path))
        return rate > 0 and operation.random.random() < rate

    def _has_no_quota_left(self, path: str) -> bool:
        if self._faulty_paths and self._faulty_paths.is_full(path):
            return True
        return self.faults.quota_reached is not None and self.faults.quota_reached(path)

    def _room(self, inode: Inode, offset: int, path: str) -> int:
        """Return how many bytes may be written at `offset`."""
        if self._has_no_quota_left(path):
            return max(0, len(inode.data) - offset)
        return self._volume.room(inode, offset)

    def resize(self, inode: Inode, size: int, path: str) -> None:
        """Cut or extend a file."""
        if size > len(inode.data) and self._has_no_quota_left(path):
            raise os_error(errno.ENOSPC, path)
        self._volume.resize(inode, size, self.now_ms(), path)

    def release(self, file: SimFile, inode: Inode) -> None:
        """Take back a handle, and with its last one the space of an unlinked file."""
        del self._files[file]
        if self.alive:
            inode.opens -= 1
            self._volume.free_if_unused(inode)

    def enter_call(self, path: str) -> object:
        """Tell that a lane's operation on `path` goes into the simulated kernel; return a token."""
        token = object()
        self._calls[token] = path
        return token

    def leave_call(self, token: object) -> None:
        """Tell that the operation has come back."""
        del self._calls[token]
        for lock in tuple(self._leaving):
            self.unlock(lock)

    def unlock(self, lock: SimDirectoryLock) -> None:
        """Take back a lock, now or when the last call under way in its directory has ended."""
        if self._locks.get(lock.path) is not lock:
            return
        inside = lock.path.rstrip("/") + "/"
        if any(path == lock.path or path.startswith(inside) for path in self._calls.values()):
            if lock not in self._leaving:
                self._leaving.append(lock)
            return
        if lock in self._leaving:
            self._leaving.remove(lock)
        del self._locks[lock.path]

    # ------------------------------------------------------------------------------- FileSystem

    def open(
        self, path: str, owner: str, *, create: bool = False, read_only: bool = False
    ) -> SimFile:
        """Open a file; see `FileSystem.open`."""
        with self.operation("open", path) as operation:
            operation.raise_error()
            count, most = len(self._files), self.faults.open_files_max
            if count >= most + self._spares:
                raise os_error(errno.EMFILE, path)
            if create and self._volume.find(path) is None:
                inode = self._volume.create_file(path, self.now_ms())
            else:
                inode = self._volume.file(path)
            inode.opens += 1
            file = SimFile(self, inode, path, owner, read_only=read_only, is_spare=count >= most)
            self._files[file] = None
            return file

    def rename(self, source: str, target: str) -> None:
        """Rename a file or directory; see `FileSystem.rename`."""
        with self.operation("rename", source) as operation:
            operation.raise_error()
            number = self._faulty_paths.drawn_error("rename", target, operation.random)
            if number:
                raise os_error(number, target)
            self._volume.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove the name of a file; see `FileSystem.unlink`."""
        with self.operation("unlink", path) as operation:
            operation.raise_error()
            self._volume.remove(path, self._volume.file(path))

    def make_directory(self, path: str, *, exist_ok: bool = False) -> None:
        """Create one directory; see `FileSystem.make_directory`."""
        with self.operation("make_directory", path) as operation:
            operation.raise_error()
            found = self._volume.find(path)
            if found is None:
                if self._has_no_quota_left(path):
                    raise os_error(errno.ENOSPC, path)
                self._volume.create_directory(path, self.now_ms())
            elif not (exist_ok and isinstance(found, Directory)):
                raise os_error(errno.EEXIST, path)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory; see `FileSystem.remove_directory`."""
        with self.operation("remove_directory", path) as operation:
            operation.raise_error()
            directory = self._volume.directory(path)
            if directory.entries:
                raise os_error(errno.ENOTEMPTY, path)
            self._volume.remove(path, directory)

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        with self.operation("list_directory", path) as operation:
            operation.raise_error()
            return sorted(self._volume.directory(path).entries)

    def stat(self, path: str) -> FileInfo | None:
        """Describe a path, or return None if there is none."""
        with self.operation("stat", path) as operation:
            operation.raise_error()
            node = self._volume.find(path)
            if node is None:
                return None
            if isinstance(node, Directory):
                return FileInfo(BLOCK_BYTES, node.modified_ms, is_directory=True)
            return FileInfo(len(node.data), node.modified_ms, is_directory=False)

    def sync_directory(self, path: str) -> None:
        """Make the name changes of one directory durable."""
        with self.operation("sync_directory", path) as operation:
            directory = self._volume.directory(path)
            operation.raise_error()
            self._volume.journal.sync(directory)

    def space(self, path: str) -> Space:
        """Return the room on this disk."""
        with self.operation("space", path) as operation:
            operation.raise_error()
            volume = self._volume
            if volume.find(path) is None:
                raise os_error(errno.ENOENT, path)
            capacity = volume.capacity_bytes
            return Space(
                ENDLESS_BYTES if capacity is None else capacity,
                0 if self._faulty_paths.is_full(path) else volume.free_blocks * BLOCK_BYTES,
                volume.free_inodes,
            )

    def lock_directory(self, path: str, description: str) -> SimDirectoryLock:
        """Lock a directory against others on this machine; see `FileSystem.lock_directory`."""
        with self.operation("lock_directory", path) as operation:
            operation.raise_error()
            path = posixpath.normpath(path)
            self._volume.directory(path)
            holder = self._locks.get(path)
            if holder is not None:
                raise LogDirInUse(f"{path} is in use by {holder.description}")
            lock_path = f"{path}/.lock"
            if self._volume.find(lock_path) is None:
                self._volume.create_file(lock_path, self.now_ms())
            inode = self._volume.file(lock_path)
            self._volume.resize(inode, 0, self.now_ms(), lock_path)
            if self._volume.room(inode, 0) >= len(description):
                self._volume.write(inode, 0, description.encode(), self.now_ms())
            lock = self._locks[path] = SimDirectoryLock(self, path, description)
            return lock

    def descriptor_paths(self, directories: Sequence[str]) -> list[str]:
        """Return the open files below `directories`: what is in the ledger, and nothing else."""
        prefixes = tuple(f"{directory}/" for directory in directories)
        return [file.path for file in self.open_files() if file.path.startswith(prefixes)]

    def open_files(self, owners: Collection[str] | None = None) -> Sequence[OpenFile]:
        """Return the open files in order of opening; none once the power has failed."""
        if not self.alive:
            return ()
        return [
            OpenFile(f.path, f.owner, f.opened_at, f.size)
            for f in self._files
            if owners is None or f.owner in owners
        ]

    @contextmanager
    def spare_descriptors(self, count: int) -> Iterator[None]:
        """See `interface.FileSystem.spare_descriptors`."""
        self._spares += count
        try:
            yield
        finally:
            self._spares -= count
