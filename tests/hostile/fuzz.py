"""Random mutations of legal requests against a real server: ``python -m tests.hostile.fuzz``.

Bounded by ``--seconds``; the same seed sends the same bytes in the same order. After every mutated
request the server must answer a probe or have closed the connection, an honest client beside it
must never notice anything, and the server's memory must stay where it was.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs

from tests.hostile.bystander import Bystander
from tests.hostile.frames import LegalRequest, legal_requests, offered_versions
from tests.support import processes
from tests.support.kafka_bytes import (
    FETCH,
    PRODUCE,
    Batch,
    RawConnection,
    api_versions_v0,
    create_topics_v2,
    frame,
    int16,
    int32,
    uvarint,
)
from tests.support.server import running_server

PROBE = 0x0BADCAFE
#: A mutated Fetch may legally ask to wait for weeks.
_PARKED_SECONDS = 1.0
_SECONDS = 20.0

_NUMBERS = [
    b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff",
    int16(-1), int16(32767), int16(-32768),
    int32(-1), int32(2**31 - 1), int32(-(2**31)), int32(0), int32(65536),
    uvarint(2**32 - 1), uvarint(2**31), uvarint(2**64 - 1), b"\xff" * 11,
]  # fmt: skip


@attrs.define
class Fuzzer:
    """Sends mutated requests to one server.

    Attributes:
        address: the server.
        requests: what is mutated.
        chance: where every decision comes from.
        seen: how the server took it: answered, closed or parked.
    """

    address: tuple[str, int]
    requests: list[LegalRequest]
    chance: random.Random
    seen: Counter[str] = attrs.field(factory=Counter)
    _connection: RawConnection | None = None

    def step(self) -> None:
        """Send one mutated request and see that the server deals with it.

        Raises:
            AssertionError: it neither answered nor closed; carries the bytes.
        """
        request = self.chance.choice(self.requests)
        content = self.mutate(request)
        if self._connection is None:
            self._connection = RawConnection.open(self.address, seconds=_SECONDS)
        outcome = self._exchange(self._connection, content)
        self.seen[outcome] += 1
        if outcome != "answered":
            self.close()

    def close(self) -> None:
        """Close the connection in use, if any."""
        if self._connection is not None:
            self._connection.__exit__()
            self._connection = None

    def mutate(self, request: LegalRequest) -> bytes:
        """Return the request's content with one to four random changes."""
        content = bytearray(request.content)
        for _ in range(self.chance.choice([1, 1, 1, 2, 4])):
            # Mostly behind the header, where there is more to be misunderstood.
            first = 0 if self.chance.random() < 0.1 else len(request.head)
            position = self.chance.randrange(min(first, len(content)), len(content) + 1)
            kind = self.chance.randrange(6)
            if kind == 0 and position < len(content):
                content[position] ^= 1 << self.chance.randrange(8)
            elif kind == 1:
                number = self.chance.choice(_NUMBERS)
                content[position : position + len(number)] = number
            elif kind == 2:
                content[position:position] = self.chance.choice(_NUMBERS)
            elif kind == 3:
                del content[position : position + self.chance.choice([1, 2, 4, 16])]
            elif kind == 4:
                end = position + self.chance.randrange(64)
                content[position:position] = content[position:end]
            else:
                del content[position:]
            content += b"\0" * max(0, 1 - len(content))
        return bytes(content)

    def _exchange(self, connection: RawConnection, content: bytes) -> str:
        may_park = content[:2] == int16(FETCH)
        connection.set_timeout(_PARKED_SECONDS if may_park else _SECONDS)
        connection.send(frame(content))
        connection.send(api_versions_v0(PROBE))
        try:
            while (response := connection.receive()) is not None:
                if response.int32() == PROBE:
                    return "answered"
        except TimeoutError:
            if may_park:
                return "parked"
            raise AssertionError(f"neither answered nor closed: {content.hex()}") from None
        return "closed"


def prepare(address: tuple[str, int], seed: int) -> tuple[Fuzzer, Bystander]:
    """Create the topics that the mutations aim at and return attacker and honest client."""
    with RawConnection.open(address) as connection:
        connection.require(create_topics_v2("bystander", "zz"))
    requests = list(legal_requests(offered_versions(address)))
    # Produce is the largest surface: as much of it as of everything else, with a batch that is
    # legal at the time of the run.
    now_ms = time.time_ns() // 1_000_000
    old, new = Batch().encode(), Batch(base_timestamp=now_ms, max_timestamp=now_ms).encode()
    produces = [
        attrs.evolve(request, body=request.body.replace(old, new))
        for request in requests
        if request.api_key == PRODUCE
    ]
    weight = max(1, len(requests) // max(1, len(produces)))
    chance = random.Random(seed)
    return Fuzzer(address, requests + produces * weight, chance), Bystander(address, "bystander")


def main() -> None:
    """Run as a command; the exit code is 1 if anything but the attacker noticed anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with (
        tempfile.TemporaryDirectory() as directory,
        running_server(Path(directory) / "data") as server,
    ):
        fuzzer, bystander = prepare((server.host, server.port), options.seed)
        bystander.start()
        before = server.usage()
        processes.reset_peak_rss(server.pid)
        deadline = time.perf_counter() + options.seconds
        while time.perf_counter() < deadline:
            fuzzer.step()
            bystander.check()
        fuzzer.close()
        bystander.stop()
        server.check_alive()
        grown = processes.peak_rss_bytes(server.pid) - before.rss_bytes
        log = server.stderr()
    print(
        f"{sum(fuzzer.seen.values())} mutated requests: {dict(fuzzer.seen)};"
        f" {bystander.rounds} honest rounds, slowest {bystander.slowest_seconds * 1000:.0f} ms;"
        f" memory grew by {grown / processes.MIB:.1f} MiB"
    )
    if "Traceback" in log:
        raise SystemExit("FAILED: the server logged a traceback:\n" + log[-4000:])


if __name__ == "__main__":
    main()
