"""The tree of a simulated disk, its space, and what a power cut leaves of both.

Owned and called by `disk` only. Knows nothing of operations, time, or faults that are drawn per
operation; raises OSError as a kernel would.
"""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING

from trio_broker.testing.sim.inodes import (
    BLOCK_BYTES,
    Directory,
    Inode,
    NameJournal,
    Node,
)

if TYPE_CHECKING:
    import random

_NAME_BYTES_MAX = 255
ENDLESS_BYTES = 1 << 40
ENDLESS_INODES = 1 << 24


def os_error(number: int, path: str) -> OSError:
    """Return the OSError subclass for an errno, worded as the system words it."""
    return OSError(number, os.strerror(number), path)


def split_path(path: str) -> tuple[str, ...]:
    """Return the names of an absolute path."""
    if not path.startswith("/"):
        raise ValueError(f"paths of a simulated disk are absolute, not {path!r}")
    parts = tuple(part for part in posixpath.normpath(path).split("/") if part)
    if any(len(part.encode()) > _NAME_BYTES_MAX for part in parts):
        raise os_error(errno.ENAMETOOLONG, path)
    return parts


class Volume:
    """Directories, files, the journal of name changes, and the space they take.

    Attributes:
        root: the directory ``/``.
        journal: name changes that are not durable yet.
        capacity_bytes, inodes_max: limits; None for as good as endless.
        power_may_fail: what a power cut would leave is kept track of.
        used_blocks, used_inodes: what is taken, unlinked open files included.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int | None,
        inodes_max: int | None,
        power_may_fail: bool = True,
    ) -> None:
        self.root = Directory(0)
        self.power_may_fail = power_may_fail
        self.journal = NameJournal(is_kept=power_may_fail)
        self.capacity_bytes = capacity_bytes
        self.inodes_max = inodes_max
        self.used_blocks = 0
        self.used_inodes = 0

    # ------------------------------------------------------------------------------------ names

    def find(self, path: str) -> Node | None:
        """Return what a path stands for, or None."""
        node: Node = self.root
        for part in split_path(path):
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, path)
            found = node.entries.get(part)
            if found is None:
                return None
            node = found
        return node

    def file(self, path: str) -> Inode:
        """Return the file of that path."""
        node = self.find(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, Directory):
            raise os_error(errno.EISDIR, path)
        return node

    def directory(self, path: str) -> Directory:
        """Return the directory of that path."""
        node = self.find(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, path)
        return node

    def place(self, path: str) -> tuple[Directory, str]:
        """Return the directory that holds `path`, and its last name."""
        parts = split_path(path)
        if not parts:
            raise os_error(errno.EBUSY, path)
        return self.directory("/" + "/".join(parts[:-1])), parts[-1]

    def tree(self) -> dict[str, bytes | None]:
        """Return every path in order, with its content (None for directories)."""
        found: dict[str, bytes | None] = {}
        todo: list[tuple[str, Directory]] = [("", self.root)]
        while todo:
            path, directory = todo.pop()
            for name, node in directory.entries.items():
                if isinstance(node, Directory):
                    found[f"{path}/{name}"] = None
                    todo.append((f"{path}/{name}", node))
                else:
                    found[f"{path}/{name}"] = bytes(node.data)
        return dict(sorted(found.items()))

    def create_file(self, path: str, now_ms: int) -> Inode:
        """Give a new empty file that name."""
        directory, name = self.place(path)
        self._take_inode(path)
        inode = Inode(now_ms, is_recorded=self.power_may_fail)
        inode.links = 1
        self.journal.change((directory, name, inode))
        return inode

    def create_directory(self, path: str, now_ms: int) -> None:
        """Make a directory; its parent must exist."""
        directory, name = self.place(path)
        if self.free_blocks == 0:
            raise os_error(errno.ENOSPC, path)
        self._take_inode(path)
        self.used_blocks += 1
        self.journal.change((directory, name, Directory(now_ms)))

    def prepare_directory(self, path: str, now_ms: int) -> None:
        """Make a directory and its parents, durable at once."""
        directory = self.root
        for part in split_path(path):
            node = directory.entries.get(part)
            if node is None:
                node = Directory(now_ms)
                self._take_inode(path)
                self.used_blocks += 1
                directory.entries[part] = directory.durable[part] = node
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, path)
            directory = node

    def remove(self, path: str, node: Node) -> None:
        """Take the name of `node` away."""
        directory, name = self.place(path)
        self.journal.change((directory, name, None))
        self._forget(node)

    def rename(self, source: str, target: str) -> None:
        """Move a name, replacing what the new name stood for."""
        source_directory, source_name = self.place(source)
        target_directory, target_name = self.place(target)
        node = source_directory.entries.get(source_name)
        if node is None:
            raise os_error(errno.ENOENT, source)
        source_parts, target_parts = split_path(source), split_path(target)
        replaced = target_directory.entries.get(target_name)
        if replaced is node:
            return
        if target_parts[: len(source_parts)] == source_parts:
            raise os_error(errno.EINVAL, target)
        if isinstance(replaced, Directory):
            if not isinstance(node, Directory):
                raise os_error(errno.EISDIR, target)
            if replaced.entries:
                raise os_error(errno.ENOTEMPTY, target)
        elif replaced is not None and isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, target)
        self.journal.change(
            (source_directory, source_name, None), (target_directory, target_name, node)
        )
        if replaced is not None:
            self._forget(replaced)

    def _forget(self, node: Node) -> None:
        """Take back what a name stood for."""
        if isinstance(node, Directory):
            self.used_blocks -= 1
            self.used_inodes -= 1
        else:
            node.links -= 1
            self.free_if_unused(node)

    # ------------------------------------------------------------------------------------ space

    @property
    def free_blocks(self) -> int:
        """Blocks that nothing occupies."""
        total = ENDLESS_BYTES if self.capacity_bytes is None else self.capacity_bytes
        return max(0, total // BLOCK_BYTES - self.used_blocks)

    @property
    def free_inodes(self) -> int:
        """Files and directories that can still be made."""
        total = ENDLESS_INODES if self.inodes_max is None else self.inodes_max
        return max(0, total - self.used_inodes)

    def _take_inode(self, path: str) -> None:
        if self.free_inodes == 0:
            raise os_error(errno.ENOSPC, path)
        self.used_inodes += 1

    def room(self, inode: Inode, offset: int) -> int:
        """Return how many bytes fit at `offset`, growing the file as far as the disk allows."""
        return max(0, (inode.blocks + self.free_blocks) * BLOCK_BYTES - offset)

    def write(self, inode: Inode, offset: int, data: bytes, now_ms: int) -> None:
        """Put bytes into the page cache; the caller has asked for room."""
        if data:
            before = inode.blocks
            inode.write(offset, data)
            inode.modified_ms = now_ms
            self.used_blocks += inode.blocks - before

    def resize(self, inode: Inode, size: int, now_ms: int, path: str) -> None:
        """Cut or extend a file."""
        if size > len(inode.data) and size > self.room(inode, 0):
            raise os_error(errno.ENOSPC, path)
        before = inode.blocks
        inode.truncate(size)
        inode.modified_ms = now_ms
        self.used_blocks += inode.blocks - before

    def free_if_unused(self, inode: Inode) -> None:
        """Give back the space of a file without names and handles."""
        if inode.links == 0 and inode.opens == 0:
            self.used_blocks -= inode.blocks
            self.used_inodes -= 1

    # --------------------------------------------------------------------------------- the end

    def after_power_cut(
        self, random: random.Random, *, names_prefix: bool, writes_ordered: bool
    ) -> Volume:
        """Draw what a power cut leaves, as a new volume on which everything is durable."""
        self.journal.survive(random, prefix=names_prefix)
        after = Volume(capacity_bytes=self.capacity_bytes, inodes_max=self.inodes_max)
        survivors: dict[Inode, Inode] = {}
        todo = [(self.root, after.root)]
        while todo:
            source, target = todo.pop()
            for name, node in sorted(source.durable.items()):
                survivor: Node
                if isinstance(node, Directory):
                    survivor = Directory(node.modified_ms)
                    after.used_blocks += 1
                    after.used_inodes += 1
                    todo.append((node, survivor))
                elif node in survivors:
                    # Two names of one file: a rename of which only half was lost.
                    survivor = survivors[node]
                    survivor.links += 1
                else:
                    image = node.surviving_image(random, ordered=writes_ordered)
                    survivor = survivors[node] = Inode(node.modified_ms, image)
                    survivor.links = 1
                    after.used_blocks += survivor.blocks
                    after.used_inodes += 1
                target.entries[name] = target.durable[name] = survivor
        return after

    def after_process_end(self) -> Volume:
        """Return this volume, page cache and all, without what only a process held open."""
        self.used_blocks = self.used_inodes = 0
        seen: set[Inode] = set()
        todo = [self.root]
        while todo:
            for node in todo.pop().entries.values():
                if isinstance(node, Directory):
                    self.used_blocks += 1
                    self.used_inodes += 1
                    todo.append(node)
                elif node not in seen:
                    seen.add(node)
                    node.opens = 0
                    node.next_write_error = 0
                    self.used_blocks += node.blocks
                    self.used_inodes += 1
        return self
