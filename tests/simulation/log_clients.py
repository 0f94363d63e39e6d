"""Clients of the log that `log_world` drives: they resend, in order, what was not answered."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field

from tests.simulation.log_model import WrittenBatch
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.storage.log import BatchToAppend

NOW_MS = 1_700_000_000_000


@define
class Client:
    """An idempotent producer that resends, in order, what was not answered."""

    producer_id: int
    epoch: int = 0
    sequence: int = 0
    unanswered: deque[WrittenBatch] = field(factory=deque)
    latest: WrittenBatch | None = None

    def next_batch(self, values: tuple[bytes, ...]) -> WrittenBatch:
        """Make a new batch and remember it until it is answered."""
        batch = WrittenBatch(values, self.producer_id, self.epoch, self.sequence)
        self.sequence += len(values)
        self.unanswered.append(batch)
        return batch

    def begin_again(self) -> None:
        """Take a new epoch after a loss that its sequences cannot bridge (KIP-360)."""
        self.epoch += 1
        self.sequence = 0
        self.unanswered.clear()
        self.latest = None


def encode(batch: WrittenBatch) -> BatchToAppend:
    """Build the batch as its client sends it."""
    idempotent: dict[str, Any] = {}
    if batch.producer_id >= 0:
        idempotent = {
            "producer_id": batch.producer_id,
            "producer_epoch": batch.epoch,
            "base_sequence": batch.sequence,
        }
    records = [Record(None, value, (), NOW_MS) for value in batch.values]
    data = build_batch(records, **idempotent)
    return BatchToAppend(data, read_header(data))
