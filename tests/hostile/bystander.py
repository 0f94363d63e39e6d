"""An honest client that works all the time while others attack, and notices everything."""

from __future__ import annotations

import threading
import time

import attrs

from tests.support.kafka_bytes import Batch, RawConnection, fetch, fetch_v4, produce, produce_v7
from tests.support.waiting import pause, wait_until

_PAUSE_SECONDS = 0.005
_SECONDS = 30.0


@attrs.define
class Bystander:
    """Produces one record, reads it back, and again, on one connection that must never break.

    Attributes:
        address: the server.
        topic: a topic of its own with one partition.
        rounds: how often it has read back what it wrote.
        slowest_seconds: the longest round so far.
        error: what went wrong, if anything.
    """

    address: tuple[str, int]
    topic: str
    rounds: int = 0
    slowest_seconds: float = 0.0
    error: str | None = None
    _stopping: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect, then start working."""
        connection = RawConnection.open(self.address)
        self._thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop working and raise AssertionError if anything went wrong."""
        self._stopping.set()
        assert self._thread is not None
        self._thread.join(_SECONDS)
        self.check()

    def check(self) -> None:
        """Raise AssertionError if anything went wrong so far."""
        if self.error is not None:
            raise AssertionError(f"after {self.rounds} rounds: {self.error}")

    def wait_for_rounds(self, more: int) -> None:
        """Wait until it has gone round `more` times from now."""
        goal = self.rounds + more
        wait_until(
            lambda: self.rounds >= goal or self.error,
            seconds=_SECONDS,
            what="the bystander's next rounds",
        )
        self.check()

    def _run(self, connection: RawConnection) -> None:
        try:
            with connection:
                while not self._stopping.is_set():
                    began = time.perf_counter()
                    self._round(connection)
                    self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - began)
                    self.rounds += 1
                    pause(_PAUSE_SECONDS)
        except (AssertionError, OSError) as error:
            self.error = repr(error)

    def _round(self, connection: RawConnection) -> None:
        now_ms = time.time_ns() // 1_000_000
        value = b"round %d" % self.rounds
        batch = Batch(values=[value], base_timestamp=now_ms, max_timestamp=now_ms).encode()
        produced = produce(connection, produce_v7(self.topic, batch))
        assert produced.error_code == 0, produced
        assert produced.base_offset == self.rounds, produced
        fetched = fetch(connection, fetch_v4(self.topic, self.rounds))
        assert fetched.error_code == 0, fetched
        assert fetched.high_watermark == self.rounds + 1, fetched
        assert value in fetched.records
