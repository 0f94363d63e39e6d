"""`trio-broker log`: what it finds, shows and complains about, on files a broker has written."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from trio_broker.broker.embed import open_broker
from trio_broker.cli.commands import command_line
from trio_broker.config import BrokerConfig


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, ["log", *arguments])


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory with one topic of two partitions and three records."""
    trio.run(write_orders, str(tmp_path))
    return tmp_path


async def write_orders(data_dir: str) -> None:
    async with open_broker(BrokerConfig(data_dir=data_dir, listeners=())) as broker:
        await broker.create_topic("orders", partitions=2)
        for value in (b"1 pizza", b"2 pizzas"):
            await broker.produce("orders", value, key=b"table 4", partition=0)
        await broker.produce("orders", b"x" * 100, partition=1)


def test_every_partition_is_described(data_dir: Path) -> None:
    result = run("inspect", str(data_dir))
    assert result.exit_code == 0, result.stderr
    assert "orders-0  " in result.stdout
    assert "orders-1  " in result.stdout
    assert "offsets 0 to 1, 2 records in 2 batches" in result.stdout
    assert "offsets 0 to 0, 1 record in 1 batch, " in result.stdout
    assert "index missing" not in result.stdout, "no newest segment has one"


def test_batches_and_records_are_listed_from_an_offset(data_dir: Path) -> None:
    [partition] = {path.parent for path in data_dir.glob("logs/*-0/*.log")}
    whole = run("inspect", str(partition), "--batches", "--records").stdout
    assert "key='table 4'  value='1 pizza'" in whole
    assert "offsets 1 to 1" in whole
    tail = run("inspect", str(partition), "--records", "--from-offset", "1").stdout
    assert "'2 pizzas'" in tail
    assert "'1 pizza'" not in tail


def test_a_sound_log_verifies(data_dir: Path) -> None:
    result = run("verify", str(data_dir))
    assert result.exit_code == 0
    assert ", 0 with bytes that are not sound" in result.stdout


def test_a_flipped_byte_is_found(data_dir: Path) -> None:
    [path] = data_dir.glob("logs/*-1/*.log")
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    result = run("verify", str(data_dir))
    assert result.exit_code == 1
    assert f"{path}: at byte 0: CRC-32C" in result.stdout
    assert ", 1 with bytes that are not sound" in result.stdout


def test_a_folder_without_logs_is_told(tmp_path: Path) -> None:
    for command in ("inspect", "verify"):
        result = run(command, str(tmp_path))
        assert result.exit_code == 1
        assert "no replica's directory" in result.stderr
    assert run("verify", str(tmp_path / "missing")).exit_code == 2
