"""How long a test suite with an embedded broker waits for its first consumer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from trio_broker import BrokerConfig, open_broker

FIRST_RECORD_SECONDS_MAX = 0.5
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 12])
async def test_the_first_record_of_a_default_group_consumer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], partitions: int
) -> None:
    """The best of three, since a shared machine pauses; the first creates the offsets topic too.

    A record in a topic of many partitions may take half a second longer with any broker: librdkafka
    begins to fetch from whichever partition it knows the offset of first, and if that is empty, its
    other partitions wait for the end of that long poll (fetch.wait.max.ms).
    """
    config = BrokerConfig(data_dir=str(tmp_path / "data"), listeners=("127.0.0.1:0",))
    seconds = []
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=partitions)
        for number in range(partitions):
            await broker.produce("orders", b"the first", partition=number)
        for group in ("one", "two", "three"):
            module = [sys.executable, "-m", "tests.clients.first_record"]
            done = await trio.run_process(
                [*module, broker.bootstrap, "orders", group], capture_stdout=True, cwd=str(ROOT)
            )
            seconds.append(float(done.stdout))
    with capsys.disabled():
        figures = ", ".join(map(str, seconds))
        print(f"\nfirst record of a group consumer, {partitions} partitions: {figures} s")
    assert min(seconds) < FIRST_RECORD_SECONDS_MAX
