"""A Trio program with a broker in it and a task that wants to run every 10 ms.

``python -m tests.benchmarks.ticker DIRECTORY`` prints where the broker listens, and after SIGTERM a
JSON object: how late the task was, in milliseconds. The load comes from other processes.
"""

from __future__ import annotations

import gc
import json
import signal
import sys

import trio

from trio_broker import BrokerConfig, open_broker

_INTERVAL_SECONDS = 0.01


async def _tick(late_ms: list[float]) -> None:
    due = trio.current_time()
    while True:
        due += _INTERVAL_SECONDS
        await trio.sleep_until(due)
        now = trio.current_time()
        late_ms.append(1000 * (now - due))
        due = max(due, now - _INTERVAL_SECONDS)


async def main(directory: str) -> None:
    """Run until SIGTERM."""
    late_ms: list[float] = []
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_broker(
            BrokerConfig(data_dir=directory, listeners=("127.0.0.1:0",))
        ) as broker:
            host, port = broker.listeners[0]
            gc.collect()
            gc.freeze()  # as the tutorial tells programs that must not be late
            print(f"listening kafka://{host}:{port}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tick, late_ms)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
    late_ms.sort()
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    answer = {name: late_ms[int(share * len(late_ms))] for name, share in shares.items()}
    print(json.dumps({**answer, "max_ms": late_ms[-1], "ticks": len(late_ms)}))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
