"""Mistakes that a log could make, each planted by replacing one function of storage/.

A model that does not notice them proves nothing: the tests demand that every one is caught.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from trio_broker.errors import SyncFailed
from trio_broker.host import jobs
from trio_broker.records.batch import HEADER_BYTES, LENGTH_MIN, read_header
from trio_broker.storage import append, checkpoint, files, log_dir, maintenance, recovery, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trio_broker.host.interface import Buffer, File, FileSystem, Job
    from trio_broker.records.batch import BatchHeader


def _nothing(*_: object) -> Job[None]:
    yield from ()


def _retry_sync(file: File) -> Job[None]:
    """Sync again when it failed, and believe the second answer, as kernels give it."""
    try:
        yield from jobs.sync(file)
    except SyncFailed:
        file._is_tainted = False  # type: ignore[attr-defined] # as if files did not remember
        yield from jobs.sync(file)


def _write_once(file: File, offset: int, buffers: Sequence[Buffer]) -> Job[int]:
    """Take the first answer of the system for the whole."""
    written: int = yield file.write_at, (offset, buffers)
    return written


def _believe(data: bytes, at: int) -> BatchHeader | str:
    """Check what the header says, but not the checksum."""
    if len(data) - at < HEADER_BYTES:
        return "fewer bytes left than a header"
    header = read_header(data, at)
    if header.magic != 2 or header.length < LENGTH_MIN:
        return "not a batch"
    return header if header.size_bytes <= len(data) - at else "only a part of a batch"


def _leave_tail(_file: File, _size: int) -> Job[bool]:
    yield from ()
    return True


def _undo_nothing(*_: object) -> Job[bool]:
    yield from ()
    return True


def _write_small_unsynced(fs: FileSystem, path: str, owner: str, payload: Buffer) -> Job[None]:
    with patch.object(jobs, "sync", _nothing):
        yield from _REAL_WRITE_SMALL_FILE(fs, path, owner, payload)


_REAL_WRITE_SMALL_FILE = jobs.write_small_file


def _with_jobs(module: Any, **replaced: Any) -> Callable[[], Any]:
    """Return a patch that shows one module other jobs."""
    return lambda: patch.object(module, "jobs", SimpleNamespace(**{**vars(jobs), **replaced}))


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        patches: make what is to be replaced while it is in place.
        hint: a case of the sweep that notices it, tried before a search.
    """

    patches: tuple[Callable[[], Any], ...]
    hint: str


MUTANTS = {
    "no fsync before the acknowledgement": Mutant(
        (_with_jobs(append, sync=_nothing),), "1 fsync crash 1"
    ),
    "no directory fsync on roll": Mutant(
        (_with_jobs(append, sync_directory=_nothing),), "1 fsync crash 61"
    ),
    "fsync retried after EIO": Mutant((_with_jobs(append, sync=_retry_sync),), "2 fsync ENOSPC 56"),
    "short write not looped": Mutant(
        (_with_jobs(append, append_all=_write_once),), "1 os ENOSPC 56"
    ),
    "no CRC on recovery": Mutant(
        (lambda: patch.object(scan, "check_stored", _believe),), "1 os dead-disk 66"
    ),
    "failed write not cut back": Mutant(
        (
            lambda: patch.object(jobs, "_cut_back", _leave_tail),
            lambda: patch.object(append, "_undo", _undo_nothing),
        ),
        "1 fsync dead-disk 46",
    ),
    "recovered tail not synced": Mutant(
        (_with_jobs(scan, sync=_nothing), _with_jobs(recovery, sync_directory=_nothing)),
        "1 fsync EIO 91",
    ),
    "failed fsync not noted": Mutant(
        (
            lambda: patch.object(append, "mark_sync_failed", _nothing),
            lambda: patch.object(files, "mark_sync_failed", _nothing),
        ),
        "4 interval ENOSPC 62",
    ),
    "checkpoint before the data is durable": Mutant(
        (lambda: patch.object(maintenance, "sync_segments", _nothing),), "1 interval crash 1"
    ),
    "checkpoint not synced before its rename": Mutant(
        (_with_jobs(checkpoint, write_small_file=_write_small_unsynced),), "3 fsync crash 21"
    ),
    "clean marker left in place": Mutant(
        (lambda: patch.object(log_dir, "unlink_if_there", _nothing),), "7 fsync ENOSPC 34"
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Make a mistake for a while."""
    patches = [make() for make in MUTANTS[name].patches]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()
