"""Room that is set aside on a real disk: what an operator sees of it, and that it comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from trio_broker.broker.embed import open_broker
from trio_broker.config import BrokerConfig, StorageConfig
from trio_broker.host.files import reserve_room

MIB = 1 << 20
VALUE = bytes(500_000)


def unused_bytes(path: Path) -> int:
    """Return how many bytes of the disk a file has beyond its length."""
    found = path.stat()
    return 512 * found.st_blocks - found.st_size


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with (tmp_path / "probe").open("wb") as file:
        reserve_room(file.fileno(), 0, MIB)
    if unused_bytes(tmp_path / "probe") < MIB:
        pytest.skip("this filesystem sets no room aside")
    return tmp_path


@pytest.mark.parametrize("most_bytes", [8 * MIB, 0])
async def test_segments_that_are_complete_take_no_more_than_their_length(
    directory: Path, *, most_bytes: int
) -> None:
    config = BrokerConfig(
        data_dir=str(directory / "data"),
        listeners=(),
        storage=StorageConfig(reserve_bytes_max=most_bytes),
    )
    async with open_broker(config) as broker:
        await broker.create_topic("large", partitions=1, configs={"segment.bytes": str(4 * MIB)})
        for _ in range(20):
            await broker.produce("large", VALUE)
        with trio.fail_after(60):
            while True:  # the last checkpoint comes after the last answer
                found = [*(directory / "data").rglob("*.log")]  # directories are named by topic id
                *complete, active = sorted(path for path in found if path.stat().st_size > MIB)
                if all(unused_bytes(path) < 64 * 1024 for path in complete):
                    break
                await trio.sleep(0.01)
        assert len(complete) >= 2
        assert (unused_bytes(active) > 64 * 1024) == (most_bytes > 0)
