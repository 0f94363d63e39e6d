"""A log against a list: random work on a simulated disk, with faults, crashes and a checker.

One idempotent producer sends unique values and repeats what was not acknowledged, as clients do.
The checker knows what was acknowledged and what was only tried. After every crash all of the first
must be there, nothing but the second may be there besides, and nothing twice.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import evolve

from tests.storage.bench import Bench, batch, values_in
from trio_broker.config import Durability, TopicConfig
from trio_broker.errors import AppendFailed, CorruptLog, StorageError, SyncFailed
from trio_broker.host.jobs import run_inline
from trio_broker.storage import paths
from trio_broker.storage.log import Accepted, Duplicate, Refused
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults, NodeDead

if TYPE_CHECKING:
    from trio_broker.storage.checkpoint import LogSummary

PRODUCER_ID = 7
SMALL = TopicConfig(segment_bytes=2500, index_interval_bytes=400, file_delete_delay_ms=0)


class LogModel:
    """What may and must be in the log.

    Attributes:
        stored: acknowledged, or seen after a crash: offset to value.
        tried: sent and not acknowledged: offset to the values that may be there.
    """

    def __init__(self) -> None:
        self.stored: dict[int, bytes] = {}
        self.tried: dict[int, set[bytes]] = {}
        self.start_offset = 0
        self.start_tried = 0

    def check(self, found: list[tuple[int, bytes]], start_offset: int, *, lossy: bool) -> None:
        """Compare with what recovery found, and go on from there."""
        assert self.start_offset <= start_offset <= self.start_tried or lossy
        values = [value for _, value in found]
        assert len(values) == len(set(values)), "a value is there twice"
        assert [offset for offset, _ in found] == [*range(start_offset, start_offset + len(found))]
        there = dict(found)
        for offset, value in there.items():
            allowed = self.tried.get(offset, set()) | {self.stored.get(offset, value)}
            if offset not in self.stored:
                allowed = self.tried.get(offset, set())
            assert value in allowed, f"offset {offset} holds {value!r}"
            if offset in self.stored and not lossy:
                assert value == self.stored[offset]
        if not lossy:
            missing = [o for o in self.stored if o >= start_offset and o not in there]
            assert not missing, f"acknowledged offsets {missing} are gone"
        self.stored = there
        self.tried.clear()
        self.start_offset = self.start_tried = start_offset


class LogRun:
    """One seeded run; with `sudden`, the machine also dies in the middle of operations."""

    def __init__(
        self,
        seed: int,
        *,
        durability: Durability = Durability.FSYNC,
        faults: DiskFaults | None = None,
        steps: int = 40,
        sudden: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.durability = durability
        self.fs = SimFileSystem(seed, faults=faults or DiskFaults())
        self.fs.prepare_directory("/logs")
        self.model = LogModel()
        self.steps = steps
        self.sudden = sudden
        self.now_ms = 1_700_000_000_000
        self.unsent: list[tuple[int, bytes]] = []  # sequence, value
        self.next_sequence = 0
        self.summary: LogSummary | None = None
        self.bench = self._new_bench()
        self.operation_counts: list[int] = []
        self.acknowledged = 0
        self.crashes = 0
        self.loss_accepted = False

    def _new_bench(self) -> Bench:
        bench = Bench(self.fs, "/logs", files_max=2)
        bench.config = SMALL
        bench.durability = self.durability
        bench.settings = evolve(bench.settings, recovery_point_bytes=7000)
        bench.now_ms = self.now_ms
        return bench

    def run(self) -> None:
        """Work, crash when the disk says so, recover, and check; at last without faults."""
        try:
            self.open()
        except NodeDead:
            self.crash()
        for _ in range(self.steps):
            if self.sudden and self.random.random() < 0.2:
                self.die_soon(40)
            try:
                self.step()
            except NodeDead:
                self.crash()
        self.quiet()

    def die_soon(self, operations: int) -> None:
        """Let the machine die in the middle of one of the next operations."""
        at = self.fs.operation_count + self.random.randrange(1, operations)
        self.fs.faults = evolve(self.fs.faults, crash_at=at)

    def quiet(self) -> None:
        """End: no more faults; everything sent must become acknowledged."""
        self.fs.faults = DiskFaults(cached_read_rate=self.fs.faults.cached_read_rate)
        if self.bench._log is None or self.bench.log.is_broken:
            self.crash(power_cut=False)
        for _ in range(50):
            if not self.unsent:
                break
            self.append()
        assert not self.unsent
        self.read_everything()
        self.crash(power_cut=self.durability is Durability.FSYNC)
        self.read_everything()

    def open(self) -> None:
        """Open until it works, as the owner of a log would."""
        for attempt in range(30):
            try:
                self.bench.open(self.summary)
            except CorruptLog as error:
                self.accept_loss(error)
            except (StorageError, OSError):
                if attempt == 20:
                    self.fs.faults = DiskFaults()
                self.summary = None
            else:
                self.summary = None
                return
        raise AssertionError("the log does not open")

    def accept_loss(self, error: CorruptLog) -> None:
        """Do what an operator does, where the mode allows that acknowledged records are lost."""
        note = f"{self.bench.directory}/{paths.SYNC_FAILED_NAME}"
        if self.durability is Durability.FSYNC or self.fs.stat(note) is None:
            raise error
        with_faults, self.fs.faults = self.fs.faults, DiskFaults()
        self.fs.open(
            f"{self.bench.directory}/{paths.ACCEPT_LOSS_NAME}", "operator", create=True
        ).close()
        self.fs.faults = with_faults
        self.loss_accepted = True

    def crash(self, *, power_cut: bool | None = None) -> None:
        """Lose power or be killed, start again, and check what is there."""
        self.crashes += 1
        if power_cut is None:
            power_cut = self.random.random() < 0.6
        if self.durability is not Durability.FSYNC:
            # Killed right between a failed fsync and the note of it, or on a disk that refuses
            # even the note: not survived where acknowledgements do not wait for fsync, see
            # `mark_sync_failed`. There, machines die rather than processes.
            power_cut = power_cut or self.fs.faults.sync_error_rate > 0 or self._note_is_missing()
        self.bench.crash()
        self.operation_counts.append(self.fs.operation_count)
        faults = evolve(self.fs.faults, crash_at=None, fail_at=None, fail_from=None)
        self.restart(power_cut=power_cut)
        if self.sudden and self.random.random() < 0.3:
            again = self.random.random() < 0.5
            self.die_soon(25)
            try:
                self.open()
            except NodeDead:
                self.bench.crash()
                power_cut = power_cut or again
                self.restart(power_cut=again)
            self.fs.faults = DiskFaults()
        if self.bench._log is None:
            self.open()
        lossy = self.durability is not Durability.FSYNC and (power_cut or self.loss_accepted)
        self.loss_accepted = False
        self.check(lossy=lossy)
        self.fs.faults = faults

    def restart(self, *, power_cut: bool) -> None:
        """Start a new process on what is left."""
        self.fs = self.fs.crash() if power_cut else self.fs.restart()
        self.fs.faults = DiskFaults()
        self.summary = None
        self.bench = self._new_bench()

    def _note_is_missing(self) -> bool:
        tree = self.fs.tree() if self.fs.alive else {}
        is_broken = self.bench._log is not None and self.bench.log.is_broken
        return is_broken and f"{self.bench.directory}/{paths.SYNC_FAILED_NAME}" not in tree

    def check(self, *, lossy: bool = False) -> None:
        log = self.bench.log
        self.model.check(self.bench.read_all(), log.log_start_offset, lossy=lossy)
        if lossy:
            # What was lost will not be sent again: its producer was told that it is stored.
            self._begin_again()

    def _begin_again(self) -> None:
        log = self.bench.log
        entry = log.producers.get(PRODUCER_ID)
        stored = set(self.model.stored.values())
        self.unsent = []
        self.next_sequence = entry.next_sequence if entry is not None else 0
        assert len(stored) == len(self.model.stored)

    # Work.

    def step(self) -> None:
        """Do one thing."""
        choice = self.random.random()
        if choice < 0.72:
            self.append()
        elif choice < 0.82:
            self.read_somewhere()
        elif choice < 0.87:
            self.attempt(self.checkpoint)
        elif choice < 0.91:
            self.attempt(self.retain)
        elif choice < 0.94:
            self.attempt(self.restart_in_order)
        elif choice < 0.97:
            self.crash(power_cut=False)
        else:
            self.crash(power_cut=True)

    def attempt(self, action: object) -> None:
        assert callable(action)
        try:
            action()
        except SyncFailed:
            self.broken()
        except (AppendFailed, OSError):
            pass

    def append(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            value = b"%06d" % self.random.randrange(10**6) + b"." * self.random.randrange(900)
            self.unsent.append((self.next_sequence, b"%d:" % self.next_sequence + value))
            self.next_sequence += 1
        sent = self.unsent[:5]
        log = self.bench.log
        self.now_ms += self.random.randrange(2000)
        plan = log.plan_append(
            [batch([v], producer_id=PRODUCER_ID, sequence=s) for s, v in sent],
            now_ms=self.now_ms,
            leader_epoch=0,
        )
        for (_, value), outcome in zip(sent, plan.outcomes, strict=True):
            if isinstance(outcome, Accepted):
                self.model.tried.setdefault(outcome.base_offset, set()).add(value)
        try:
            run_inline(log.append_job(plan, sync=self.durability is Durability.FSYNC))
        except AppendFailed:
            log.abandon(plan)
        except SyncFailed:
            log.abandon(plan)
            assert log.is_broken
        else:
            log.publish(plan, synced=self.durability is Durability.FSYNC)
            for (sequence, value), outcome in zip(sent, plan.outcomes, strict=True):
                assert not isinstance(outcome, Refused), outcome
                self._acknowledge(sequence, value, outcome)
        if log.is_broken:
            self.broken()
        elif log.checkpoint_due:
            self.attempt(self.checkpoint)

    def _acknowledge(self, sequence: int, value: bytes, outcome: Accepted | Duplicate) -> None:
        offset = outcome.base_offset
        if isinstance(outcome, Duplicate) and offset < self.bench.log.log_start_offset:
            assert offset not in self.model.stored
        else:
            assert self.model.stored.setdefault(offset, value) == value
        self.model.tried.pop(offset, None)
        self.unsent.remove((sequence, value))
        self.acknowledged += 1

    def broken(self) -> None:
        """Go on after a failed fsync, in one of the ways a broker may."""
        self.bench.log.mark_broken()
        choice = self.random.random()
        if choice < 0.4 and self.durability is Durability.FSYNC:
            try:
                run_inline(self.bench.log.seal_at_durable_job())
            except (StorageError, OSError):
                self.crash(power_cut=self.random.random() < 0.5)
            else:
                self.bench.log.apply_seal()
                self.model.tried.clear()
                self.read_everything()
        elif self.durability is not Durability.FSYNC:
            self.crash(power_cut=choice < 0.5)
        else:
            self.crash(power_cut=choice < 0.7)

    def checkpoint(self) -> None:
        self.bench.checkpoint()

    def retain(self) -> None:
        log = self.bench.log
        log.config = evolve(SMALL, retention_bytes=self.random.choice([-1, 0, 4000, 8000]))
        if self.random.random() < 0.3:
            log.seal_idle(self.now_ms + SMALL.segment_ms + 1)
        give_way_offset = self.random.choice([-1, self.random.randint(0, log.log_end_offset)])
        plan = log.plan_deletion(self.now_ms, give_way_offset=give_way_offset)
        if plan is None:
            return
        self.model.start_tried = plan.checkpoint.state.log_start_offset
        log.publish_deletion(run_inline(log.delete_segments_job(plan)), self.now_ms)
        self.model.start_offset = log.log_start_offset
        self.model.stored = {
            o: v for o, v in self.model.stored.items() if o >= log.log_start_offset
        }
        job = log.unlink_deleted_job(self.now_ms)
        assert job is not None
        run_inline(job)

    def restart_in_order(self) -> None:
        run_inline(self.bench.log.close_job())
        self.summary = self.bench.log.clean_summary
        self.bench.crash()
        self.bench = self._new_bench()
        self.open()

    def read_somewhere(self) -> None:
        log = self.bench.log
        if log.log_start_offset == log.log_end_offset:
            return
        offset = self.random.randrange(log.log_start_offset, log.log_end_offset)
        plan = log.locate(
            offset, max_bytes=self.random.choice([1, 500, 5000]), upper_offset=1 << 62
        )
        assert plan is not None
        buffers = log.read_cached(plan)
        if buffers is None:
            try:
                buffers = run_inline(log.read_job(plan))
            except OSError:
                return
        found = values_in(buffers)
        assert found[0][0] == offset
        assert all(self.model.stored[o] == value for o, value in found)

    def read_everything(self) -> None:
        faults, self.fs.faults = self.fs.faults, DiskFaults()
        found = self.bench.read_all()
        assert dict(found) == self.model.stored
        self.fs.faults = faults
