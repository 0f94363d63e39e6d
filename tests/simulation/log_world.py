"""Drives a real `Log` on a simulated disk through a scenario, beside its model.

A `World` is a broker reduced to one log: it opens the log dir and the log, appends like a writer
with clients that resend what was not answered, flushes, checkpoints, deletes, stops and starts, and
reacts to failures as the broker does. Disk operations are numbered, so a sweep can let each of them
fail or be the moment of a power cut.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from attrs import evolve

from tests.simulation.log_clients import NOW_MS, Client, encode
from tests.simulation.log_model import LogModel, StoredBatch, Violation, WrittenBatch
from trio_broker.config import Durability, TopicConfig
from trio_broker.errors import AppendFailed, CorruptLog, StorageError, SyncFailed
from trio_broker.host.jobs import run_inline
from trio_broker.names import TopicName, TopicPartition
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.storage import paths
from trio_broker.storage.handles import SegmentCache, open_files_of
from trio_broker.storage.log import Accepted, Duplicate, Log, LogSettings, Refused
from trio_broker.storage.log_dir import LogDirectory, open_log_directory_job
from trio_broker.storage.recovery import open_log_job
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from trio_broker.storage.checkpoint import LogSummary

TOPIC_PARTITION = TopicPartition(UUID("6f1f9a5e-9d3c-4a8e-8f5e-0123456789ab"), 0)
LOG_DIR = "/data/logs"
DIRECTORY = f"{LOG_DIR}/{paths.replica_name(TOPIC_PARTITION)}"
SETTINGS = LogSettings(
    producer_ids_max=100, producer_id_expiration_ms=86_400_000, recovery_point_bytes=3000
)
#: Operations of a scenario without faults, at most.
OPERATIONS_MAX = 200
_STARTS_MAX = 12


class Scenario(NamedTuple):
    """What to do, all of it decided by the seed before anything is done."""

    seed: int
    durability: Durability
    steps: tuple[tuple[str, int], ...]


def plan_scenario(seed: int, durability: Durability) -> Scenario:
    """Draw the steps of a scenario; as many as stay within `OPERATIONS_MAX`."""
    draws = RandomStreams(seed).stream("scenario")
    kinds = ("append", "flush", "checkpoint", "delete", "start offset", "stop", "kill")
    weights = (12, 2, 2, 2, 1, 1, 1)
    steps = tuple(
        (kind, draws.getrandbits(32))
        for kind in draws.choices(kinds, weights, k=draws.randint(9, 16))
    )
    while True:
        scenario = Scenario(seed, durability, steps)
        if World(scenario).run_to_end() <= OPERATIONS_MAX:
            return scenario
        steps = steps[:-1]


class World:
    """One log and everything around it.

    Attributes:
        fs: the disk in its present life.
        model: what the log promises.
        first_life_operations: operations until the first loss of power.
    """

    def __init__(self, scenario: Scenario, lives: Sequence[DiskFaults] = ()) -> None:
        """Prepare a world.

        Args:
            scenario: what to do.
            lives: faults of the disk until the first power cut, until the second, and so on.
        """
        streams = RandomStreams(scenario.seed)
        self.scenario = scenario
        self.durability = scenario.durability
        self.model = LogModel()
        self.first_life_operations = 0
        self.config = TopicConfig(segment_bytes=1024, index_interval_bytes=64)
        self.clients = [Client(7), Client(8)]
        self._draws: Random = streams.stream("reactions")
        self._lives = deque(lives)
        self._values = 0
        self._power_lost = False
        self._sync_failed = False
        self._directory: LogDirectory | None = None
        self._log: Log | None = None
        self.fs = SimFileSystem(streams, faults=self._next_life())
        self.fs.prepare_directory("/data")

    def _next_life(self) -> DiskFaults:
        return self._lives.popleft() if self._lives else DiskFaults()

    @property
    def log(self) -> Log:
        assert self._log is not None
        return self._log

    @property
    def _syncs(self) -> bool:
        return self.durability is Durability.FSYNC

    # ------------------------------------------------------------------------------------- the run

    def run_to_end(self) -> int:
        """Do all steps, then lose power twice; return the operations of the first life.

        Raises:
            Violation: the log broke a promise.
        """
        self.start()
        for kind, number in self.scenario.steps:
            try:
                self._do(kind, number)
            except NodeDead:
                self._power_back()
                self.start()
        self.first_life_operations = self.first_life_operations or self.fs.operation_count
        self.lose_power()
        self._append(self._draws.getrandbits(32))
        self.stop(self._draws.getrandbits(32))
        self.start()
        if self.scenario.seed % 2:
            # What comes after a clean stop must not be forgotten in favour of what was then.
            self._append(self._draws.getrandbits(32))
        # What a log shows after recovery is promised, whether it had been acknowledged or not.
        self.lose_power()
        return self.first_life_operations

    def _do(self, kind: str, number: int) -> None:
        if kind == "append":
            self._append(number)
        elif kind == "flush":
            self._flush()
        elif kind == "checkpoint":
            self._checkpoint()
        elif kind == "delete":
            self._delete(number)
        elif kind == "start offset":
            self._advance_start(number)
        elif kind == "stop":
            self.stop(number)
            self.start()
        else:
            self.kill()
            self.start()

    def lose_power(self) -> None:
        """Cut the power, start again and check."""
        self.fs.power_off()
        self._power_back()
        self.start()

    def kill(self) -> None:
        """Let the process end without a word; the page cache survives.

        A disk that fails altogether takes its filesystem down, and mounting that again, without
        which nothing goes on, leaves nothing of the page cache either.
        """
        faults = self.fs.faults
        before = self.fs.operation_count
        if faults.fail_from is not None and before >= faults.fail_from[0]:
            self.fs.power_off()
            self._power_back()
            return
        self._forget()
        self.fs = self.fs.restart()
        # The disk goes on as it was, and so does the count of its operations.
        self.fs.faults, self.fs.operation_count = faults, before

    def _power_back(self) -> None:
        self.first_life_operations = self.first_life_operations or self.fs.operation_count
        self._forget()
        self.fs = self.fs.crash()
        self.fs.faults = self._next_life()
        self._power_lost = True

    def _forget(self) -> None:
        self._log = self._directory = None

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Let the world look at the disk without faults, and without counting operations."""
        faults, count = self.fs.faults, self.fs.operation_count
        self.fs.faults = DiskFaults()
        try:
            yield
        finally:
            self.fs.faults, self.fs.operation_count = faults, count

    # ------------------------------------------------------------------------------ start and stop

    def start(self, *, reopen: bool = False) -> None:
        """Open the log, whatever it takes, and compare what it shows with what was promised.

        Args:
            reopen: in the process that had it open before, and still holds the log dir.
        """
        for _ in range(_STARTS_MAX):
            try:
                self._open(reopen=reopen)
                break
            except NodeDead:
                self._power_back()
            except CorruptLog as error:
                self._accept_loss(error)
                self.kill()
            except (OSError, StorageError) as error:
                self._note_failed_sync(error)
                self._restart_somehow()
            reopen = False
        else:
            raise Violation("the log does not open")
        with self._undisturbed():
            found = self._read_all()
            log = self.log
            self.model.check_recovered(
                found, log.log_start_offset, log.log_end_offset, power_lost=self._power_lost
            )
            self.model.start_again(found, log.log_start_offset, log.log_end_offset)
            if log.durable_offset != log.log_end_offset:
                raise Violation(f"{log} counts only {log.durable_offset} as durable")
            self._check_producers(found)
        self._power_lost = self._sync_failed = False

    def _restart_somehow(self) -> None:
        """A start failed: try again in a new process, or with a machine that was off."""
        if self._draws.random() < 0.5:
            self.kill()
        else:
            self.fs.power_off()
            self._power_back()
        # Somebody has made room meanwhile.
        self.fs.faults = evolve(self.fs.faults, capacity_bytes=None)

    def _open(self, *, reopen: bool) -> None:
        if not reopen:
            self._directory = run_inline(
                open_log_directory_job(
                    self.fs,
                    LOG_DIR,
                    cluster_id="cluster",
                    node_id=1,
                    new_directory_id=UUID(int=1),
                    description="model",
                )
            )
            run_inline(self._directory.begin_job())
        assert self._directory is not None
        self._log = run_inline(
            open_log_job(
                self.fs,
                DIRECTORY,
                topic_partition=TOPIC_PARTITION,
                topic_name=TopicName("orders"),
                config=self.config,
                durability=self.durability,
                settings=SETTINGS,
                cache=SegmentCache(4),
                summary=self._directory.take_summary(TOPIC_PARTITION),
                now_ms=NOW_MS,
                after_failed_sync=reopen and self._sync_failed,
            )
        )

    def _accept_loss(self, error: CorruptLog) -> None:
        """Be the operator who lets a log go on after acknowledged records were lost."""
        note = f"{DIRECTORY}/{paths.SYNC_FAILED_NAME}"
        if self._syncs or not (self._sync_failed or note in self.fs.tree()):
            raise Violation(f"nothing was damaged: {error}") from error
        with self._undisturbed():
            path = f"{DIRECTORY}/{paths.ACCEPT_LOSS_NAME}"
            self.fs.open(path, "operator", create=True).close()
        self._power_lost = True  # as far as promises go

    def stop(self, number: int) -> None:
        """Stop in order: close the log, write the clean marker, close everything."""
        summaries: dict[TopicPartition, LogSummary] = {}
        is_flushed = False
        log, directory = self.log, self._directory
        assert directory is not None
        try:
            run_inline(log.close_job())
        except (OSError, StorageError) as error:
            self._note_failed_sync(error)
        else:
            # All of it is on the disk. Only files that are to go and could not be removed keep the
            # stop from vouching for it: then the next start looks into the directory.
            is_flushed = True
            if (log.clean_summary is None) != bool(log.last_unlinked.refused):
                raise Violation(f"{log.clean_summary} although {log.last_unlinked}")
            if log.clean_summary is not None:
                summaries = {TOPIC_PARTITION: log.clean_summary}
        log.close_files()
        if open_files_of(self.fs, log.owner):
            raise Violation(f"left open: {open_files_of(self.fs, log.owner)}")
        if is_flushed:
            self.model.make_durable()
            self.model.move_start(self.model.start, durable=True)
        try:
            run_inline(directory.mark_clean_job(summaries))
        except (OSError, StorageError) as error:
            self._note_failed_sync(error)
        directory.release()
        if number % 2:
            # The power may fail before the next start: a clean marker must mean what it says.
            self.fs.power_off()
            self._power_back()
        else:
            self.kill()

    def _note_failed_sync(self, error: Exception) -> None:
        self._sync_failed = self._sync_failed or isinstance(error, SyncFailed)

    # ----------------------------------------------------------------------------------- appending

    def _new_values(self, draws: int) -> tuple[bytes, ...]:
        values = []
        for _ in range(1 + draws % 3):
            self._values += 1
            values.append((b"%06d/" % self._values).ljust(20 + draws % 331, b"."))
        return tuple(values)

    def _batches_to_send(self, number: int) -> list[WrittenBatch]:
        """Choose one to four batches; a client with unanswered ones sends those again first."""
        batches = []
        for turn in range(1 + number % 4):
            number = number * 1_103_515_245 + 12_345 & 0x7FFFFFFF
            draws = number >> 8
            if draws % 3 == 2:
                batches.append(WrittenBatch(self._new_values(draws // 3)))
                continue
            client = self.clients[draws % 3]
            again = [batch for batch in client.unanswered if batch not in batches]
            if again:
                batches += again
            elif draws % 7 == 0 and client.latest is not None and turn == 0:
                batches.append(client.latest)
            else:
                batches.append(client.next_batch(self._new_values(draws // 3)))
        return batches

    def _append(self, number: int) -> None:
        if self.log.is_broken:
            self._heal()
        batches = self._batches_to_send(number)
        plan = self.log.plan_append(
            [encode(batch) for batch in batches], now_ms=NOW_MS, leader_epoch=number % 3
        )
        stored = []
        for batch, outcome in zip(batches, plan.outcomes, strict=True):
            if isinstance(outcome, Accepted):
                stored.append(StoredBatch(outcome.base_offset, batch))
        self._check_outcomes(batches, plan.outcomes, stored)
        self.model.begin(stored)
        try:
            run_inline(self.log.append_job(plan, sync=self._syncs))
        except AppendFailed as error:
            self.log.abandon(plan)
            if error.cut_back:
                self.model.refuse()
            else:
                self._heal()
        except (OSError, StorageError) as error:
            self._note_failed_sync(error)
            self.log.abandon(plan)
            self._heal()
        else:
            self.log.publish(plan, synced=self._syncs)
            self.model.publish(synced=self._syncs)
            self._answer(batches, plan.outcomes)
            self._check_running()

    def _check_outcomes(
        self, batches: Sequence[WrittenBatch], outcomes: Sequence[object], stored: list[StoredBatch]
    ) -> None:
        offset = self.model.end
        for entry in stored:
            if entry.base_offset != offset:
                raise Violation(f"{entry} was planned instead of offset {offset}")
            offset = entry.end_offset
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Duplicate):
                known = self.model.location_of(batch)
                if outcome.base_offset != known:
                    raise Violation(f"{batch} at {known} was taken for a copy of {outcome}")
            elif isinstance(outcome, Accepted) and self.model.location_of(batch) is not None:
                raise Violation(f"a copy of {batch} was accepted")
            elif isinstance(outcome, Refused) and self._syncs:
                raise Violation(f"{batch} was refused: {outcome}")

    def _answer(self, batches: Sequence[WrittenBatch], outcomes: Sequence[object]) -> None:
        """Give the clients their answers."""
        for batch, outcome in zip(batches, outcomes, strict=True):
            for client in self.clients:
                if client.producer_id != batch.producer_id:
                    continue
                if isinstance(outcome, Refused):
                    client.begin_again()
                elif batch in client.unanswered:
                    client.unanswered.remove(batch)
                    client.latest = batch

    # -------------------------------------------------------------------------------------- upkeep

    def _flush(self) -> None:
        log = self.log
        if log.is_broken:
            self._heal()
            return
        end = log.log_end_offset
        try:
            run_inline(log.flush_job())
        except SyncFailed as error:
            self._note_failed_sync(error)
            log.mark_broken()
            self._heal()
        except (OSError, StorageError):
            pass
        else:
            log.mark_flushed(end)
            self.model.make_durable()
            if log.durable_offset != end:
                raise Violation(f"{log} counts only {log.durable_offset} as durable")

    def _checkpoint(self) -> None:
        log = self.log
        if log.is_broken:
            return
        try:
            plan = run_inline(log.checkpoint_job())
        except SyncFailed as error:
            self._note_failed_sync(error)
            log.mark_broken()
            self._heal()
        except (OSError, StorageError):
            pass
        else:
            log.mark_checkpointed(plan)
            self.model.make_durable()
            self.model.move_start(self.model.start, durable=True)

    def _delete(self, number: int) -> None:
        log = self.log
        log.config = evolve(self.config, retention_bytes=number % 3000, file_delete_delay_ms=0)
        plan = log.plan_deletion(NOW_MS)
        log.config = self.config
        if plan is None:
            return
        start = plan.checkpoint.state.log_start_offset
        self.model.begin_to_move_start(start)
        try:
            done = run_inline(log.delete_segments_job(plan))
        except SyncFailed as error:
            self._note_failed_sync(error)
            log.mark_broken()
            self._heal()
        except (OSError, StorageError):
            # It may be on disk already; nothing was published.
            self._restart_after_failed_deletion()
        else:
            log.publish_deletion(done, NOW_MS)
            self.model.make_durable()
            self.model.move_start(start, durable=True)
            self._check_running()

    def _restart_after_failed_deletion(self) -> None:
        self.kill()
        self.start()

    def _advance_start(self, number: int) -> None:
        log = self.log
        if log.is_broken or log.log_end_offset == log.log_start_offset:
            return
        start = log.log_start_offset + number % (log.log_end_offset - log.log_start_offset)
        log.advance_start_offset(start)
        self.model.move_start(start, durable=False)
        self._checkpoint()

    def _heal(self) -> None:
        """Bring back a log that is broken: cut it back, or open it anew in one of three ways."""
        way = self._draws.random()
        if way < 0.3 and self._syncs and self.log.is_broken:
            try:
                run_inline(self.log.seal_at_durable_job())
            except (OSError, StorageError) as error:
                self._note_failed_sync(error)
            else:
                self.log.apply_seal()
                self.model.cut_to_durable()
                self._sync_failed = False
                self._check_running()
                return
        elif way < 0.5:
            self.log.close_files()
            self.start(reopen=True)
            return
        if way < 0.75:
            self.kill()
        else:
            self.fs.power_off()
            self._power_back()
        self.start()

    # ------------------------------------------------------------------------------------- looking

    def _check_running(self) -> None:
        with self._undisturbed():
            log = self.log
            self.model.check_published(self._read_all(), log.log_start_offset, log.log_end_offset)
            if self._syncs and log.durable_offset != log.log_end_offset:
                raise Violation(f"{log} counts only {log.durable_offset} as durable")

    def _read_all(self) -> list[StoredBatch]:
        """Read the whole log through its own index, a few batches at a time."""
        log = self.log
        found: list[StoredBatch] = []
        offset = log.log_start_offset
        while offset < log.log_end_offset:
            plan = log.locate(offset, max_bytes=700, upper_offset=log.log_end_offset)
            assert plan is not None
            try:
                data = b"".join(log.read_cached(plan) or run_inline(log.read_job(plan)))
            except (OSError, StorageError) as error:
                raise Violation(f"offset {offset} cannot be read: {error}") from error
            for header, content in iterate_batches(data):
                values = tuple(
                    record.value or b"" for record in iterate_records(content, bytes_max=1 << 20)
                )
                batch = WrittenBatch(
                    values, header.producer_id, header.producer_epoch, header.base_sequence
                )
                if header.producer_id < 0:
                    batch = WrittenBatch(values)
                found.append(StoredBatch(header.base_offset, batch))
            if not found or found[-1].end_offset <= offset:
                raise Violation(f"nothing at offset {offset} of {log}")
            offset = found[-1].end_offset
        return found

    def _check_producers(self, found: Sequence[StoredBatch]) -> None:
        """Send the newest batch of each producer once more: it must be known."""
        newest = {entry.batch.producer_id: entry for entry in found}
        newest.pop(-1, None)
        for entry in newest.values():
            plan = self.log.plan_append([encode(entry.batch)], now_ms=NOW_MS, leader_epoch=0)
            (outcome,) = plan.outcomes
            self.log.abandon(plan)
            if not isinstance(outcome, Duplicate) or outcome.base_offset != entry.base_offset:
                raise Violation(f"a copy of {entry} would be answered with {outcome}")
