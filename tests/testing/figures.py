"""``python -m tests.testing.figures``: how long brokers for tests take, beside their goals.

On a machine that others use too, look at the CPU times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import trio
from trio.testing import MockClock

from trio_broker.client import ConsumerOptions, open_client
from trio_broker.testing import broker_thread, memory_broker

ROUNDS = 100
TESTS = 200
SUITE = f"""
import pytest
from trio_broker.testing import memory_broker

@pytest.mark.trio
@pytest.mark.parametrize("number", range({TESTS}))
async def test_one(number):
    async with memory_broker() as broker:
        await broker.create_topic("orders")
        assert await broker.produce("orders", b"1") == (0, 0)
"""
#: Printed by a process that has only imported what the fixture imports.
FIRST_START = """
import time
began = time.perf_counter()
from trio_broker.testing.threaded_broker import broker_thread
from trio_broker.testing.memory import config_for_tests
imported = time.perf_counter()
with broker_thread(config_for_tests()):
    started = time.perf_counter()
print(imported - began, started - imported)
"""


def show(what: str, seconds: list[float], goal_ms: float | None = None) -> None:
    """Print the median and the 95th percentile of some times."""
    text = f"{what:<46} median {median(seconds) * 1000:7.1f} ms"
    if len(seconds) > 2:
        text += f"   p95 {quantiles(seconds, n=20)[-1] * 1000:7.1f} ms"
    print(text + (f"   goal {goal_ms:g} ms" if goal_ms else ""), flush=True)


async def in_memory() -> tuple[list[float], list[float]]:
    """Start and stop brokers in memory; return what each took, in time and in CPU time."""
    took, cpu = [], []
    for _ in range(ROUNDS):
        began, cpu_began = time.perf_counter(), time.process_time()
        async with memory_broker():
            pass
        took.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    return took, cpu


def in_threads() -> tuple[list[float], list[float], list[float]]:
    """Start, restart and stop brokers in threads; return what each took."""
    starts, restarts, stops = [], [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with broker_thread() as broker:
            starts.append(time.perf_counter() - began)
            began = time.perf_counter()
            broker.restart()
            restarts.append(time.perf_counter() - began)
            began = time.perf_counter()
        stops.append(time.perf_counter() - began)
    return starts, restarts, stops


def in_new_processes() -> tuple[list[float], list[float]]:
    """Import and start in fresh processes; return what importing and starting took."""
    imports, starts = [], []
    for _ in range(5):
        printed = subprocess.run(
            [sys.executable, "-c", FIRST_START], capture_output=True, text=True, check=True
        ).stdout.split()
        imports.append(float(printed[0]))
        starts.append(float(printed[1]))
    return imports, starts


async def virtual_hour(fetch_wait_seconds: float | None) -> float:
    """Let a broker do nothing for an hour, with a waiting consumer or without; return CPU time."""
    async with memory_broker() as broker, open_client(broker=broker) as client:
        await broker.create_topic("orders", partitions=3)

        async def consume() -> None:
            if fetch_wait_seconds is not None:
                options = ConsumerOptions(fetch_wait_seconds=fetch_wait_seconds)
                async with client.open_group_consumer("readers", ["orders"], options) as consumer:
                    async for _ in consumer:
                        pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await trio.sleep(60)
            began = time.process_time()
            await trio.sleep(3600)
            took = time.process_time() - began
            nursery.cancel_scope.cancel()
    return took


def suite_seconds() -> tuple[float, float]:
    """Run a suite whose tests each have a broker of their own; return time and CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_suite.py").write_text(SUITE)
        began, cpu_began = time.perf_counter(), children_cpu_seconds()
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=folder,
            capture_output=True,
            check=True,
        )
        return time.perf_counter() - began, children_cpu_seconds() - cpu_began


def children_cpu_seconds() -> float:
    """Return the CPU time of all processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Measure and print."""
    took, cpu = trio.run(in_memory)
    show("memory_broker, start to stop", took, 30)
    show("the same, CPU time", cpu)
    starts, restarts, stops = in_threads()
    show("broker_thread, start", starts, 100)
    show("broker_thread, restart", restarts)
    show("broker_thread, stop", stops)
    imports, first_starts = in_new_processes()
    show("broker_thread, imports in a new process", imports)
    show("broker_thread, first start in a new process", first_starts, 100)
    for wait_seconds in (None, 0.5, 25.0):
        who = "nobody" if wait_seconds is None else f"a consumer that waits {wait_seconds:g} s"
        clock = MockClock(autojump_threshold=0)
        took = [trio.run(virtual_hour, wait_seconds, clock=clock)]
        show(f"virtual hour with {who}, CPU time", took)
    seconds, cpu_seconds = suite_seconds()
    print(
        f"{TESTS} tests with a memory_broker each: {seconds:.1f} s in all, goal 10 s; "
        f"CPU time {cpu_seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
