"""What a log dir's disk can be trusted with: a state machine without I/O, the circuit breaker.

========  =================================================  =====================================
state     entered when                                       then
========  =================================================  =====================================
OK        there is room                                      everything works
LOW       free space below 10 % of the disk, or 1 GiB        retention runs at once
DEGRADED  below 5 % or 512 MiB, or a write met a full disk   produce is refused, all else works
FAILED    an fsync failed or a call hung, EIO or EROFS on    the log dir's partitions are offline
          a write, or other errors of writes (EIO on what
          has to be read first) in 3 partitions in 10 s
========  =================================================  =====================================

DEGRADED is left after probes (a small write and fsync) have succeeded for a second with room above
its threshold; FAILED after one good probe (or one for which there was no room, and nothing else
was wrong), once the logs have been opened again. Driven by
`broker.disk_guard`; no restart is ever needed.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.config import GIB, MIB

if TYPE_CHECKING:
    from trio_broker.host.interface import Space

LOW_BYTES_MAX = GIB
LOW_SHARE = 0.10
DEGRADED_BYTES_MAX = 512 * MIB
DEGRADED_SHARE = 0.05
#: Few enough that the next roll or topic may find none.
LOW_INODES = 256
PROBES_HELD_SECONDS = 1.0
#: Other write errors in fewer places than this say something of these, and nothing of the disk.
FAILING_PLACES_MAX = 3
WRITE_ERRORS_SECONDS = 10.0

#: What the system says of a write when there is no room for it.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What it says when no write can succeed any more, to whatever file.
GONE = frozenset({errno.EROFS, errno.ENXIO, errno.ENODEV})
#: The process's own want, which says nothing of the disk.
_NOT_THE_DISK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_BROKEN = GONE | {errno.EIO}


class DiskState(Enum):
    """See the table of this module; in order of severity."""

    OK = "ok"
    LOW = "low"
    DEGRADED = "degraded"
    FAILED = "failed"


class Thresholds(NamedTuple):
    """Free bytes below which a disk is LOW, and DEGRADED."""

    low_bytes: int
    degraded_bytes: int


def thresholds(total_bytes: int) -> Thresholds:
    """Return the thresholds for a disk of this size."""
    return Thresholds(
        min(LOW_BYTES_MAX, int(total_bytes * LOW_SHARE)),
        min(DEGRADED_BYTES_MAX, int(total_bytes * DEGRADED_SHARE)),
    )


class DiskHealth:
    """The state of one log dir's disk.

    Attributes:
        state: now.
        cause: why it is not OK, a sentence; empty while it is.
        space: as last observed; None before.
    """

    def __init__(self) -> None:
        self.state = DiskState.OK
        self.cause = ""
        self.space: Space | None = None
        self._good_probes_since: float | None = None
        self._write_errors: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<DiskHealth {self.state.value} {self.cause}>"

    @property
    def refuses_produce(self) -> bool:
        """Whether clients may not write now."""
        return self.state in {DiskState.DEGRADED, DiskState.FAILED}

    @property
    def is_tight(self) -> bool:
        """Whether free space should be looked at often."""
        if self.space is None or self.state is not DiskState.OK:
            return True
        return self.space.free_bytes < 2 * thresholds(self.space.total_bytes).low_bytes

    def failing_places(self, now: float) -> dict[str, float]:
        """Return where writes were refused of late, and when last; see `write_refused`."""
        return {
            place: since
            for place, since in self._write_errors.items()
            if now - since <= WRITE_ERRORS_SECONDS
        }

    def observe(self, space: Space) -> None:
        """Take in how much room there is."""
        self.space = space
        limits = thresholds(space.total_bytes)
        if self.state in {DiskState.DEGRADED, DiskState.FAILED}:
            return  # left by probes only
        if space.free_bytes < limits.degraded_bytes:
            self._degrade(
                f"{space.free_bytes} bytes were free, and {limits.degraded_bytes} are kept for "
                "deletions and offset commits"
            )
        elif space.free_bytes < limits.low_bytes or 0 < space.free_inodes < LOW_INODES:
            self.state = DiskState.LOW
            self.cause = (
                f"{space.free_bytes} bytes and {space.free_inodes} inodes are free, "
                f"low is below {limits.low_bytes} bytes or {LOW_INODES} inodes"
            )
        else:
            self.state = DiskState.OK
            self.cause = ""

    def write_refused(self, error_number: int, cause: str, now: float, place: str) -> None:
        """Take in a write that the system refused and that was cut back.

        Args:
            error_number: its errno.
            cause: a sentence.
            now: Trio time.
            place: the directory that it was in.
        """
        if error_number in _NOT_THE_DISK:
            return
        if error_number in FULL:
            if self.state is not DiskState.FAILED:
                self._degrade(cause)
            return
        if error_number in _BROKEN:
            self.fail(cause)
            return
        self._count_place(cause, now, place)

    def read_refused(self, error_number: int, cause: str, now: float, place: str) -> None:
        """Take in that what has to be read before a write could not be.

        Bad sectors below what was written long ago say nothing of what is to be written, so EIO
        counts by place here.
        """
        if error_number == errno.EIO:
            self._count_place(cause, now, place)
        else:
            self.write_refused(error_number, cause, now, place)

    def _count_place(self, cause: str, now: float, place: str) -> None:
        self._write_errors = {**self.failing_places(now), place: now}
        if len(self._write_errors) >= FAILING_PLACES_MAX:
            self.fail(
                f"errors of writes in {FAILING_PLACES_MAX} places in {WRITE_ERRORS_SECONDS:g} s:"
                f" {cause}"
            )

    def removal_refused(self, error_number: int, cause: str, now: float, place: str) -> None:
        """Take in files that could not be moved or removed.

        Unless the error is that of a full or broken disk, the cause may be the files themselves
        (whose they are, their attributes, something mounted there), and writes are none the worse.
        """
        if error_number in FULL | _BROKEN:
            self.write_refused(error_number, cause, now, place)

    def fail(self, cause: str) -> None:
        """Take in a failed fsync, a call that hangs, or another proof that the disk is broken."""
        self.state = DiskState.FAILED
        self.cause = cause
        self._good_probes_since = None

    def probe_failed(self) -> None:
        """Take in that a small write and fsync did not succeed."""
        self._good_probes_since = None

    def probe_succeeded(self, space: Space, now: float) -> bool:
        """Take in that a small write and fsync succeeded; return whether that ends the state.

        After True the caller does what is left to do (open failed logs again) and then calls
        `recovered`.
        """
        self.space = space
        if self.state is DiskState.FAILED:
            return True
        if space.free_bytes < thresholds(space.total_bytes).degraded_bytes:
            self._good_probes_since = None
            return False
        if self._good_probes_since is None:
            self._good_probes_since = now
        return now - self._good_probes_since >= PROBES_HELD_SECONDS

    def recovered(self, space: Space) -> None:
        """Leave DEGRADED or FAILED; where to depends on the room there is."""
        self.state = DiskState.OK
        self.cause = ""
        self._good_probes_since = None
        self._write_errors.clear()
        self.observe(space)

    def _degrade(self, cause: str) -> None:
        self.state = DiskState.DEGRADED
        self.cause = cause
        self._good_probes_since = None
