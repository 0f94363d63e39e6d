"""The scan of a log after a crash: what is sound from the recovery point on, and what is not.

Used by `recovery` only, inside its job. Owns the state of one scan; the rules are in the text of
`recovery`.
"""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING

from trio_broker.config import Durability
from trio_broker.errors import CorruptLog
from trio_broker.host import jobs
from trio_broker.records.batch import (
    HEADER_BYTES,
    LENGTH_MIN,
    LOG_OVERHEAD_BYTES,
    NO_TIMESTAMP,
    read_header,
)
from trio_broker.records.validation import check_stored
from trio_broker.replication.leader_epochs import LeaderEpochCache
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import read_snapshot
from trio_broker.storage.files import unlink_if_there
from trio_broker.storage.index import (
    SegmentIndex,
    index_paths,
    read_index_files,
    write_index_files,
)
from trio_broker.storage.maintenance import quarantine_file
from trio_broker.storage.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.host.interface import File, Job
    from trio_broker.records.batch import BatchHeader
    from trio_broker.storage.checkpoint import LogState
    from trio_broker.storage.recovery import LogToOpen

logger = logging.getLogger("trio_broker.storage")

SCAN_BYTES = 1024 * 1024
#: Batch length field of a header, after the base offset.
_LENGTH = struct.Struct(">8xi")


class Scan:
    """One scan.

    Attributes:
        must_rewrite: an fsync had failed, so what the page cache shows need not be on the disk.
        trusts_cache: something acknowledged may be in the page cache only.
        may_lose: an operator has accepted that acknowledged records are lost by that.
        segments: those found sound so far.
        index: of the last of them, None if it is not known.
        end_offset: offset after the last sound batch.
        log_start_offset: first offset to serve.
        producers: state of idempotent producers at `end_offset`.
        epochs: leader epochs up to there.
        bytes_scanned: read and checked.
    """

    def __init__(
        self, opening: LogToOpen, *, must_rewrite: bool, is_in_doubt: bool, may_lose: bool
    ) -> None:
        self.must_rewrite = must_rewrite
        # Of what was acknowledged before somebody altered the topic, `durability` says nothing.
        self.trusts_cache = is_in_doubt or opening.durability is not Durability.FSYNC
        self.may_lose = may_lose
        self.segments: list[Segment] = []
        self.index: SegmentIndex | None = None
        self.end_offset = 0
        self.log_start_offset = 0
        self.producers = opening.no_producers()
        self.epochs = LeaderEpochCache()
        self.bytes_scanned = 0
        self.batches = 0
        self.bytes_truncated = 0
        self.fault = ""
        self.quarantined: list[str] = []
        self.rebuilt: list[str] = []
        self._opening = opening
        self._files = opening.files
        self._is_checkpoint_lost = False
        self._resume: Segment | None = None

    def lost_checkpoint(self) -> None:
        """Take note that the checkpoint cannot be read, so that nobody knows what was promised."""
        self._is_checkpoint_lost = True
        self.rebuilt.append(paths.CHECKPOINT_NAME)

    def begin_at(self, offset: int) -> None:
        """Scan all of the log, which begins at this offset."""
        self.log_start_offset = self.end_offset = offset

    # What a checkpoint promises.

    def trust(self, checkpoint: LogState, bases: Sequence[int]) -> Job[list[int]]:
        """Take over what lies before the recovery point; return the segments to scan.

        Raises:
            CorruptLog: some of it is not there.
        """
        # An empty segment may be missing: nothing was promised to be in it.
        present = [f for f in checkpoint.segments if f.size_bytes or f.base_offset in bases]
        checkpoint = checkpoint._replace(segments=tuple(present))
        end = checkpoint.end
        self.log_start_offset = checkpoint.log_start_offset
        self.end_offset = end.offset
        try:
            self.epochs = LeaderEpochCache.from_bytes(checkpoint.epochs)
        except ValueError as error:
            raise CorruptLog(f"{self._files.directory}: {error}") from error
        known = {facts.base_offset for facts in checkpoint.segments}
        first = min(known, default=end.offset)
        to_scan = []
        for base in bases:
            if base < first:
                yield from self._finish_deletion(base)
            elif base > end.segment_base or (base == end.offset and base not in known):
                to_scan.append(base)
            elif base not in known:
                yield from self._quarantine(base)
        for facts in checkpoint.segments:
            is_last = facts is checkpoint.segments[-1]
            yield from self._check_size(facts.base_offset, facts.size_bytes, is_last=is_last)
        self.segments = checkpoint.make_segments()
        if self.segments:
            self._resume = self.segments.pop()
            to_scan.insert(0, self._resume.base_offset)
        return to_scan

    def _finish_deletion(self, base_offset: int) -> Job[None]:
        """Remove a segment that the checkpoint does not have any more."""
        for suffix in (paths.LOG_SUFFIX, paths.INDEX_SUFFIX, paths.TIME_INDEX_SUFFIX):
            path = self._files.path(paths.offset_name(base_offset, suffix))
            yield from unlink_if_there(self._files.fs, path)

    def _check_size(self, base_offset: int, size_bytes: int, *, is_last: bool) -> Job[None]:
        path = self._files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
        info = yield self._files.fs.stat, (path,)
        if info is None:
            raise CorruptLog(
                f"{path} is missing, {size_bytes} bytes of it are below the recovery point"
            )
        if info.size_bytes < size_bytes:
            raise CorruptLog(
                f"{path} has {info.size_bytes} bytes, {size_bytes} are below the recovery point"
            )
        if info.size_bytes > size_bytes and not is_last:
            # A seal had cut it, and the cut did not survive; nobody may take it for the log.
            file = yield from jobs.open_file(self._files.fs, path, self._files.owner)
            try:
                yield file.truncate, (size_bytes,)
                yield from jobs.sync(file)
            finally:
                file.close()

    def restore_producers(self, checkpoint: LogState, snapshots: Sequence[int]) -> Job[None]:
        """Bring the producer state to the recovery point, from the newest snapshot that is sound.

        Raises:
            CorruptLog: the headers below the recovery point are damaged.
        """
        if not checkpoint.has_producers:
            return
        from_offset = self.log_start_offset
        for offset in sorted(snapshots, reverse=True):
            if offset > checkpoint.end.offset:
                continue
            data = yield from read_snapshot(self._files, offset)
            producers = self._opening.producers_from(data)
            if producers is not None:
                self.producers, from_offset = producers, offset
                break
        if from_offset == checkpoint.end.offset:
            return
        self.rebuilt.append(paths.offset_name(checkpoint.end.offset, paths.SNAPSHOT_SUFFIX))
        now_ms = self._opening.now_ms

        def visit(header: BatchHeader) -> None:
            if header.base_offset >= from_offset:
                self.producers.apply(header, header.base_offset, now_ms)

        for segment in [*self.segments, *([self._resume] if self._resume else [])]:
            if segment.end_offset > from_offset:
                yield from self._walk(segment, visit)

    def _walk(self, segment: Segment, visit: Callable[[BatchHeader], None]) -> Job[None]:
        """Visit the headers of a segment that lies before the recovery point."""
        path = self._files.path(segment.name)
        file = yield from jobs.open_file(self._files.fs, path, self._files.owner, read_only=True)
        try:
            position = 0
            while position < segment.size_bytes:
                length = min(SCAN_BYTES, segment.size_bytes - position)
                data: bytes = yield file.read_at, (position, length)
                at = 0
                while at + HEADER_BYTES <= len(data):
                    header = read_header(data, at)
                    if header.length < LENGTH_MIN:
                        break
                    visit(header)
                    at += header.size_bytes
                if at == 0:
                    raise CorruptLog(f"{path}: no record batch at position {position}")
                position += at
        finally:
            file.close()

    # The scan.

    def run(self, bases: Sequence[int]) -> Job[None]:
        """Scan segments, oldest first, up to the first fault; deal with what follows it.

        Raises:
            CorruptLog: what follows may have been acknowledged.
            SyncFailed: what was found sound could not be made durable.
        """
        for number, base_offset in enumerate(bases):
            rest = bases[number + 1 :]
            if self._resume is None and base_offset != self.end_offset:
                path = self._files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
                info = yield self._files.fs.stat, (path,)
                if info is not None and info.size_bytes == 0:
                    # Made for an append or a deletion that was then taken back.
                    yield from unlink_if_there(self._files.fs, path)
                    continue
                self.fault = f"segment {base_offset} follows offset {self.end_offset}"
                rest = bases[number:]
                self._judge(rest)
            else:
                yield from self._scan_segment(base_offset, rest)
            if self.fault:
                for base in rest:
                    yield from self._quarantine(base)
                break
        if self.fault:
            logger.warning(
                "%s: cut off %d bytes from offset %d on: %s",
                self._files.directory,
                self.bytes_truncated,
                self.end_offset,
                self.fault,
            )

    def _judge(self, rest: Sequence[int]) -> None:
        """Refuse to cut anything off that may have been promised.

        Raises:
            CorruptLog: it may have been.
        """
        where = f"{self._files.directory}: {self.fault}, at offset {self.end_offset}"
        if self.may_lose:
            return
        if self._is_checkpoint_lost and rest:
            raise CorruptLog(f"{where}, and the checkpoint is damaged too")
        if self.must_rewrite and self._opening.durability is not Durability.FSYNC:
            raise CorruptLog(
                f"{where}, after a failed fsync: acknowledged records may be lost. To accept that, "
                f"make an empty file {paths.ACCEPT_LOSS_NAME} there"
            )

    def _quarantine(self, base_offset: int) -> Job[None]:
        name = paths.offset_name(base_offset, paths.LOG_SUFFIX)
        info = yield self._files.fs.stat, (self._files.path(name),)
        self.bytes_truncated += info.size_bytes if info is not None else 0
        path = yield from quarantine_file(self._files, name)
        if path is not None:
            self.quarantined.append(path)
        for index_path in index_paths(self._files.directory, base_offset):
            yield from unlink_if_there(self._files.fs, index_path)

    def _scan_segment(self, base_offset: int, rest: Sequence[int]) -> Job[None]:
        files = self._files
        path = files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
        yield from self._save_index()
        file = yield from jobs.open_file(files.fs, path, files.owner)
        try:
            must_copy = yield from self._face_the_disk(file)
            segment = yield from self._segment(base_offset, path, file.size)
            self.segments.append(segment)
            begin = segment.size_bytes
            yield from self._scan_file(file, segment)
            if self.fault:
                self._judge(rest)
                self.bytes_truncated += file.size - segment.size_bytes
                yield file.truncate, (segment.size_bytes,)
                for index_path in index_paths(files.directory, base_offset):
                    yield from unlink_if_there(files.fs, index_path)
                segment.indexed_bytes = 0
                yield from jobs.sync(file)
            if must_copy or (self.must_rewrite and begin == 0):
                yield from self._copy(file, path)
        finally:
            file.close()

    def _face_the_disk(self, file: File) -> Job[bool]:
        """Make the page cache and the disk agree about a segment, as far as that is possible.

        The process before this one may have been killed right after an fsync had failed, or in one
        that hung and then failed: nobody told, the pages pass for clean, and show what the disk
        does not have. Where acknowledgements wait for fsync, what the disk has is all that counts.

        Where they do not wait, what only the page cache has was acknowledged. After a failed fsync
        it has to go to the disk, for which it must be copied: to write the same pages again does
        not help on ext4, which takes new blocks whose write has failed for written.

        Returns:
            Whether the segment has to be copied, once it has been scanned.

        Raises:
            SyncFailed: nothing is certain.
        """
        # Also what shows no change may be news to the disk: a cut that was not synced.
        yield from jobs.sync(file)
        if self.trusts_cache:
            return self.must_rewrite
        begin = 0 if self._resume is None else self._resume.size_bytes
        is_forgotten: bool = yield file.forget_cached, (begin,)
        return self.must_rewrite and not is_forgotten

    def _copy(self, file: File, path: str) -> Job[None]:
        """Put a segment into a new file of the same name: even its name may not be durable."""
        fs, temporary = self._files.fs, path + jobs.TEMPORARY_SUFFIX
        copy = yield from jobs.open_file(fs, temporary, self._files.owner, create=True)
        try:
            position = 0
            while position < file.size:
                data: bytes = yield file.read_at, (position, SCAN_BYTES)
                position += yield from jobs.append_all(copy, position, [data])
            yield from jobs.sync(copy)
        finally:
            copy.close()
        yield fs.rename, (temporary, path)
        yield from jobs.sync_directory(fs, self._files.directory)

    def _segment(self, base_offset: int, path: str, file_bytes: int) -> Job[Segment]:
        """Return the segment to scan, and make its index ready."""
        segment, self._resume = self._resume, None
        if segment is None:
            info = yield self._files.fs.stat, (path,)
            segment = Segment(
                base_offset, self._opening.now_ms if info is None else info.modified_ms
            )
            self.index = SegmentIndex()
        elif file_bytes > segment.size_bytes:
            files, size_bytes = self._files, segment.size_bytes
            index = yield from read_index_files(
                files.fs, files.directory, files.owner, base_offset, size_bytes
            )
            # One that does not reach the recovery point is completed when it is first needed.
            self.index = index if index.covered_bytes == size_bytes else None
        return segment

    def _save_index(self) -> Job[None]:
        """Write the index of the segment scanned before, so that memory stays bounded."""
        if self.index is not None and self.segments:
            files, segment = self._files, self.segments[-1]
            yield from write_index_files(
                files.fs,
                files.directory,
                files.owner,
                segment.base_offset,
                self.index.to_payloads(segment.base_offset),
            )
            segment.indexed_bytes = segment.size_bytes
        self.index = None

    def _scan_file(self, file: File, segment: Segment) -> Job[None]:
        """Check batch after batch; stop with `fault` at the first that is not sound."""
        end = file.size
        position = segment.size_bytes
        read_bytes = SCAN_BYTES
        while position < end and not self.fault:
            length = min(read_bytes, end - position)
            data: bytes = yield file.read_at, (position, length)
            if len(data) < length:
                raise CorruptLog(f"{file.path} became shorter while it was read")
            read_bytes = SCAN_BYTES
            at = 0
            while at < len(data) and not self.fault:
                wanted_bytes = _batch_bytes(data, at)
                if wanted_bytes > len(data) - at and wanted_bytes <= end - position - at:
                    if at == 0:
                        read_bytes = wanted_bytes
                    break  # the rest of this batch is still in the file
                checked = check_stored(data, at)
                if isinstance(checked, str):
                    self.fault = checked
                elif checked.base_offset != self.end_offset:
                    self.fault = f"offset {checked.base_offset} instead of {self.end_offset}"
                else:
                    self._take(segment, checked)
                    at += checked.size_bytes
            position += at
            self.bytes_scanned += at

    def _take(self, segment: Segment, header: BatchHeader) -> None:
        """Count in a sound batch."""
        if self.index is not None:
            self.index.note(
                header.base_offset - segment.base_offset,
                header.size_bytes,
                header.max_timestamp,
                self._opening.config.index_interval_bytes,
            )
        self.producers.apply(header, header.base_offset, self._opening.now_ms)
        self.epochs.assign(header.leader_epoch, header.base_offset)
        if segment.first_timestamp == NO_TIMESTAMP:
            segment.first_timestamp = header.max_timestamp
        segment.max_timestamp = max(segment.max_timestamp, header.max_timestamp)
        segment.size_bytes += header.size_bytes
        segment.end_offset = self.end_offset = header.last_offset + 1
        self.batches += 1


def _batch_bytes(data: bytes, at: int) -> int:
    """Return how many bytes a batch says it has, at least a header."""
    if at + _LENGTH.size > len(data):
        return HEADER_BYTES
    length: int = _LENGTH.unpack_from(data, at)[0]
    return max(HEADER_BYTES, LOG_OVERHEAD_BYTES + length)
