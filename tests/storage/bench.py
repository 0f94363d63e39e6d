"""Drives a `Log` step by step, as a shard's writer does, but inline and on any filesystem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from trio_broker.config import Durability, TopicConfig
from trio_broker.host.jobs import run_inline
from trio_broker.names import TopicName, TopicPartition
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.storage import paths
from trio_broker.storage.handles import SegmentCache, open_files_of
from trio_broker.storage.log import Accepted, BatchToAppend, Log, LogSettings
from trio_broker.storage.recovery import open_log_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import Buffer, FileSystem
    from trio_broker.storage.checkpoint import LogSummary

TOPIC_PARTITION = TopicPartition(UUID("6f1f9a5e-9d3c-4a8e-8f5e-0123456789ab"), 0)
NOW_MS = 1_700_000_000_000
SETTINGS = LogSettings(
    producer_ids_max=100, producer_id_expiration_ms=86_400_000, recovery_point_bytes=1 << 20
)


def batch(
    values: Sequence[bytes] = (b"v",),
    *,
    producer_id: int = -1,
    epoch: int = 0,
    sequence: int = 0,
    timestamp_ms: int = NOW_MS,
) -> BatchToAppend:
    """Build a batch as a client would send it."""
    records = [Record(None, value, (), timestamp_ms) for value in values]
    idempotent: dict[str, Any] = {}
    if producer_id >= 0:
        idempotent = {
            "producer_id": producer_id,
            "producer_epoch": epoch,
            "base_sequence": sequence,
        }
    data = build_batch(records, **idempotent)
    return BatchToAppend(data, read_header(data))


def values_in(buffers: Sequence[Buffer]) -> list[tuple[int, bytes]]:
    """Return (offset, value) of every record in what a read returned."""
    found = []
    for _, one in iterate_batches(b"".join(buffers)):
        for record in iterate_records(one, bytes_max=1 << 24):
            assert record.value is not None
            found.append((record.offset, record.value))
    return found


class Bench:
    """One replica directory and, once opened, its log."""

    def __init__(self, fs: FileSystem, log_dir: str, *, files_max: int = 8) -> None:
        self.fs = fs
        self.log_dir = log_dir
        self.directory = f"{log_dir}/{paths.replica_name(TOPIC_PARTITION)}"
        self.topic_name = TopicName("orders")
        self.cache = SegmentCache(files_max)
        self.config = TopicConfig()
        self.durability = Durability.FSYNC
        self.settings = SETTINGS
        self.now_ms = NOW_MS
        self.leader_epoch = 0
        self.reserve_bytes = 0
        self.may_make = True
        self._log: Log | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()

    @property
    def log(self) -> Log:
        assert self._log is not None
        return self._log

    def opening(self, summary: LogSummary | None = None) -> Any:
        """Make the job that opens the log."""
        return open_log_job(
            self.fs,
            self.directory,
            topic_partition=TOPIC_PARTITION,
            topic_name=self.topic_name,
            config=self.config,
            durability=self.durability,
            settings=self.settings,
            cache=self.cache,
            summary=summary,
            now_ms=self.now_ms,
            may_make=self.may_make,
        )

    def open(self, summary: LogSummary | None = None) -> Log:
        """Open the log; the one before, if any, is abandoned as in a crash of the process."""
        self.crash()
        self._log = run_inline(self.opening(summary))
        return self.log

    def crash(self) -> None:
        """Forget the log without a word to the disk."""
        if self._log is not None:
            self._log.close_files()
            self._log = None

    def stop(self) -> LogSummary:
        """Close in order and return the summary for the clean marker."""
        log = self.log
        run_inline(log.close_job())
        self.crash()
        assert log.clean_summary is not None
        return log.clean_summary

    @property
    def syncs(self) -> bool:
        return self.durability is Durability.FSYNC

    def append(self, *batches: BatchToAppend) -> list[Any]:
        """Append in one group commit and return the outcomes; a failure is raised."""
        log = self.log
        plan = log.plan_append(
            batches,
            now_ms=self.now_ms,
            leader_epoch=self.leader_epoch,
            reserve_bytes=self.reserve_bytes,
        )
        try:
            run_inline(log.append_job(plan, sync=self.syncs))
        except Exception:
            log.abandon(plan)
            raise
        log.publish(plan, synced=self.syncs)
        return plan.outcomes

    def fill(self, count: int, *, size_bytes: int = 100, start: int = 0) -> None:
        """Append batches of one record, one commit each."""
        for number in range(start, start + count):
            value = b"%08d" % number
            (outcome,) = self.append(batch([value.ljust(size_bytes, b".")]))
            assert isinstance(outcome, Accepted)

    def read(self, offset: int, **options: Any) -> list[tuple[int, bytes]] | None:
        """Read once, through a job, and return (offset, value) of the records."""
        options = {"max_bytes": 1 << 20, "upper_offset": 1 << 62} | options
        plan = self.log.locate(offset, **options)
        if plan is None:
            return None
        return values_in(run_inline(self.log.read_job(plan)))

    def read_all(self) -> list[tuple[int, bytes]]:
        """Read from the start to the end, fetch by fetch."""
        offset = self.log.log_start_offset
        found: list[tuple[int, bytes]] = []
        while offset < self.log.log_end_offset:
            some = self.read(offset)
            assert some, f"nothing at offset {offset} of {self.log}"
            found += [entry for entry in some if entry[0] >= offset]
            offset = some[-1][0] + 1
        return found

    def checkpoint(self) -> None:
        self.log.mark_checkpointed(run_inline(self.log.checkpoint_job()))

    def names(self) -> list[str]:
        return self.fs.list_directory(self.directory)

    @property
    def open_count(self) -> int:
        return len(open_files_of(self.fs, paths.owner_name(TOPIC_PARTITION)))
