"""Rare things that must happen in some runs, or the simulation itself has lost its teeth.

After Antithesis' "sometimes" assertions: a batch of a few hundred seeds in which one of these never
happens says nothing about it, and nobody would notice otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.testing.brokers import Ending
from trio_broker.testing.swarm import TROUBLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.testing.brokers import Life

#: What each of them is.
RARE = {
    **{f"trouble: {kind}": f"{kind} while the broker served" for kind in TROUBLES},
    "refused with KAFKA_STORAGE_ERROR": "a produce met a disk that refuses",
    "refused with REQUEST_TIMED_OUT": "a produce waited for longer than its client would",
    "refused with OUT_OF_ORDER_SEQUENCE_NUMBER": "a batch came behind one that was refused",
    "repeated": "a batch was sent again that had been stored",
    "out of range": "a consumer wanted what is not there any more",
    "unknown topic": "a client used a topic while it was being deleted",
    "long poll answered": "a fetch that waits for minutes was woken",
    "given up": "a client has left while its request was under way",
    "refused with NOT_ENOUGH_REPLICAS": "a produce met a topic that wants two replicas in sync",
    "too large": "a batch was larger than a topic allows",
    "topic altered": "a topic got another configuration",
    "promised more": "acknowledgements came to wait for fsync, and the power was cut",
    "partitions added": "a topic got more partitions",
    "records trimmed": "records were deleted on request",
    "rebalance": "a member got its assignment",
    "fenced commit": "a member of an older generation was refused",
    "recovered a torn tail": "a start has cut off what was not stored whole",
    "trusted a clean stop": "a start has scanned nothing",
    "refused to start": "a start met a disk that does not work",
    "failed log dir": "a log dir has failed",
    "write refused": "a write was refused and cut back",
    "records lost, as allowed": "durability os or interval was seen to matter",
    "stop cut short": "a stop has not come to its end within its deadline",
    "answered beside a failing log dir": "a fault stayed in its log dir",
    "answered beside a failing partition": "a fault stayed in its partition",
    "stuck call": "a system call has outlived its deadline",
}


def look_at_start(life: Life, saw: Callable[[str], None]) -> None:
    """Take note of what a start has found."""
    for replica in life.state.router.replicas():
        if not replica.has_log:
            continue
        recovery = replica.log.recovery
        if recovery.bytes_truncated:
            saw("recovered a torn tail")
        if recovery.is_trusted and replica.log.log_end_offset:
            saw("trusted a clean stop")


def look_at_end(life: Life, saw: Callable[[str], None]) -> None:
    """Take note of what has become of a life."""
    if life.ending is Ending.FAILED_START:
        saw("refused to start")
    if life.broker is None:
        return
    for log_dir in life.state.log_dirs:
        if log_dir.write_failures:
            saw("write refused")
        fault = life.state.supervisor.faults.get(f"log dir {log_dir.directory.path}")
        if fault is not None:
            saw("failed log dir")
            if "did not return within" in str(fault.last_cause):
                saw("stuck call")
    if life.ending is Ending.STOPPED and not life.was_clean:
        saw("stop cut short")
