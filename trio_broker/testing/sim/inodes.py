"""Files and directories of a simulated disk: what programs see, and what a power cut leaves.

Owned and called by `disk` only. Draws randomness only from generators it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import random

#: What a disk writes all or nothing of.
SECTOR_BYTES = 512
#: What space is counted in.
BLOCK_BYTES = 4096


class PendingWrite(NamedTuple):
    """Bytes in the page cache that no sync has covered yet."""

    offset: int
    data: bytes


class PendingCut(NamedTuple):
    """A change of length that no sync has covered yet."""

    size: int


def write_into(image: bytearray, offset: int, data: bytes) -> None:
    """Put `data` at `offset`, filling a gap before it with zeros."""
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def cut(image: bytearray, size: int) -> None:
    """Make `image` exactly `size` bytes long."""
    if size < len(image):
        del image[size:]
    else:
        image.extend(bytes(size - len(image)))


class Inode:
    """One file: the page cache, the durable image, and the changes between the two, in order.

    Attributes:
        data: what every reader sees.
        durable: what is certain to survive a power cut.
        pending: changes since the last sync.
        links: names it has now.
        opens: open handles; the space is given back when links and opens are both 0.
        reserved_end: up to where room was wanted (`File.reserve`); no block is taken for that.
        next_write_error: errno that the next write meets, 0 for none.
        is_recorded: `durable` and `pending` are kept, for a power cut.
        unwritable: blocks that a failed sync has lost: what is written there again will not reach
            the disk either, as long as they are cached.
    """

    __slots__ = (
        "data",
        "durable",
        "is_recorded",
        "links",
        "modified_ms",
        "next_write_error",
        "opens",
        "pending",
        "reserved_end",
        "unwritable",
    )

    def __init__(
        self, modified_ms: int, data: bytearray | None = None, *, is_recorded: bool = True
    ) -> None:
        self.data = bytearray() if data is None else data
        self.is_recorded = is_recorded
        self.durable = bytearray(self.data if is_recorded else b"")
        self.pending: list[PendingWrite | PendingCut] = []
        self.links = 0
        self.opens = 0
        self.reserved_end = 0
        self.modified_ms = modified_ms
        self.next_write_error = 0
        self.unwritable: set[int] = set()

    @property
    def blocks(self) -> int:
        """Blocks of the disk this file occupies."""
        return -(-len(self.data) // BLOCK_BYTES)

    def write(self, offset: int, data: bytes) -> None:
        """Change what readers see; durable only after `sync`."""
        write_into(self.data, offset, data)
        if self.is_recorded:
            self.pending.append(PendingWrite(offset, self._as_written(offset, data)))

    def _as_written(self, offset: int, data: bytes) -> bytes:
        """Return what the disk will get of these bytes."""
        end = offset + len(data)
        first, last = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if not (self.unwritable and self.unwritable.intersection(range(first, last))):
            return data
        image = bytearray(data)
        for block in self.unwritable:
            start, stop = max(block * BLOCK_BYTES, offset), min((block + 1) * BLOCK_BYTES, end)
            if start < stop:
                image[start - offset : stop - offset] = bytes(stop - start)
        return bytes(image)

    def truncate(self, size: int) -> None:
        """Change the length that readers see; durable only after `sync`."""
        cut(self.data, size)
        if self.is_recorded:
            self.pending.append(PendingCut(size))
            kept = -(-size // BLOCK_BYTES)
            self.unwritable = {block for block in self.unwritable if block < kept}

    def sync(self) -> None:
        """Make everything durable."""
        for change in self.pending:
            if isinstance(change, PendingWrite):
                write_into(self.durable, change.offset, change.data)
            else:
                cut(self.durable, change.size)
        self.pending.clear()

    def fail_sync(self, random: random.Random) -> None:
        """Lose a drawn part of the pending changes for good, and forget that they were pending.

        Readers still see them, and the next sync has nothing left to do and succeeds: what
        ext4, XFS and Btrfs do after an I/O error (Rebello et al., ATC 2020). ext4 (6.18) also takes
        new blocks whose write has failed for written: to write the same pages again does not help.
        """
        known = -(-len(self.durable) // BLOCK_BYTES)
        for change in self.pending:
            if random.random() < 0.5:
                if isinstance(change, PendingWrite):
                    last = -(-(change.offset + len(change.data)) // BLOCK_BYTES)
                    self.unwritable.update(range(max(known, change.offset // BLOCK_BYTES), last))
                continue
            if isinstance(change, PendingWrite):
                write_into(self.durable, change.offset, change.data)
            else:
                cut(self.durable, change.size)
        self.pending.clear()

    def forget_cached(self) -> None:
        """Let readers see the disk; the length stays, with zeros where it holds nothing."""
        if not self.is_recorded:
            return
        image = bytearray(self.durable)
        for change in self.pending:
            _apply_whole(image, change)
        cut(image, len(self.data))
        self.data = image
        self.unwritable.clear()

    def surviving_image(self, random: random.Random, *, ordered: bool) -> bytearray:
        """Draw what a power cut leaves of this file."""
        image = bytearray(self.durable)
        pending = self.pending
        if ordered:
            whole = random.randrange(len(pending) + 1)
            for change in pending[:whole]:
                _apply_whole(image, change)
            pending = pending[whole : whole + 1]
        for change in pending:
            if isinstance(change, PendingCut):
                if random.random() < 0.5:
                    cut(image, change.size)
            else:
                _apply_drawn(image, change, random)
        return image


def _apply_whole(image: bytearray, change: PendingWrite | PendingCut) -> None:
    if isinstance(change, PendingWrite):
        write_into(image, change.offset, change.data)
    else:
        cut(image, change.size)


def _apply_drawn(image: bytearray, change: PendingWrite, random: random.Random) -> None:
    """Let a write survive not at all, in some sectors, in its first bytes, or whole."""
    offset, data = change
    fate = random.random()
    if fate < 0.25:
        return
    if fate < 0.5:
        # The length reached the disk, some sectors did not: they read as zeros or old bytes.
        end = offset + len(data)
        if len(image) < end:
            image.extend(bytes(end - len(image)))
        position = offset
        while position < end:
            sector_end = min(end, (position // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if random.random() < 0.5:
                image[position:sector_end] = data[position - offset : sector_end - offset]
            position = sector_end
    elif fate < 0.75:
        write_into(image, offset, data[: random.randrange(len(data) + 1)])
    else:
        write_into(image, offset, data)


class Directory:
    """One directory: the names that programs see, and those certain to survive a power cut."""

    __slots__ = ("durable", "entries", "modified_ms")

    def __init__(self, modified_ms: int) -> None:
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.modified_ms = modified_ms


Node: TypeAlias = Inode | Directory


class NameChange(NamedTuple):
    """One atomic change of names: (directory, name, what it now means or None for nothing)."""

    entries: tuple[tuple[Directory, str, Node | None], ...]

    def touches(self, directories: set[Directory]) -> bool:
        """Say whether any of these directories is changed by it."""
        return any(directory in directories for directory, _, _ in self.entries)

    def make_durable(self) -> None:
        """Carry the change into what survives."""
        for directory, name, node in self.entries:
            if node is None:
                directory.durable.pop(name, None)
            else:
                directory.durable[name] = node


class NameJournal:
    """The changes of names that no directory sync has covered yet, oldest first."""

    def __init__(self, *, is_kept: bool = True) -> None:
        """Make an empty journal; one that is not kept forgets what has become of names."""
        self._is_kept = is_kept
        self._changes: list[NameChange] = []

    def change(self, *entries: tuple[Directory, str, Node | None]) -> None:
        """Apply one atomic change to what programs see, and remember it as pending."""
        for directory, name, node in entries:
            if node is None:
                del directory.entries[name]
            else:
                directory.entries[name] = node
        if self._is_kept:
            self._changes.append(NameChange(entries))

    def _split(self, directory: Directory) -> tuple[list[NameChange], list[NameChange]]:
        """Divide the pending changes into those a sync of `directory` covers and the others.

        A rename between two directories is one change, so covering it takes along what happened
        before it in the other directory.
        """
        wanted = {directory}
        covered: list[NameChange] = []
        others: list[NameChange] = []
        for change in reversed(self._changes):
            if change.touches(wanted):
                wanted.update(entry[0] for entry in change.entries)
                covered.append(change)
            else:
                others.append(change)
        covered.reverse()
        others.reverse()
        return covered, others

    def sync(self, directory: Directory) -> None:
        """Make the changes of one directory durable, and of no other."""
        covered, self._changes = self._split(directory)
        for change in covered:
            change.make_durable()

    def survive(self, random: random.Random, *, prefix: bool) -> None:
        """Draw which pending changes a power cut leaves, and make those durable."""
        if prefix:
            kept = self._changes[: random.randrange(len(self._changes) + 1)]
        else:
            kept = [change for change in self._changes if random.random() < 0.5]
        for change in kept:
            change.make_durable()
        self._changes = []
