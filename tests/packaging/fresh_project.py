"""A fresh project that only did ``pip install 'trio-broker[test]'``, from a wheel built here.

``python -m tests.packaging.fresh_project`` builds the wheel, makes an environment with nothing but
it, its extra and a Kafka client, writes a small test suite, and runs that. Options:

    --with PACKAGE ...   install these too (pytest-asyncio and pytest-xdist, say)
    -- ...               options of pytest, ``-- -n 2`` for example
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What the project under test uses; not part of the package or its extras.
CLIENT = "confluent-kafka>=2.6"
SUITE = """
import confluent_kafka
import pytest

from trio_broker.testing import memory_broker


def produce(bootstrap, topic, *values):
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def stored(kafka_broker, topic):
    return [record.value for record in kafka_broker.records(topic)]


def test_a_client_writes(kafka_broker, kafka_topic):
    produce(kafka_broker.bootstrap, kafka_topic, b"1", b"2")
    assert stored(kafka_broker, kafka_topic) == [b"1", b"2"]


def test_a_client_survives(kafka_broker, kafka_topic, kafka_faults):
    fault = kafka_faults.error("Produce", "NOT_LEADER_OR_FOLLOWER")
    lost = kafka_faults.lose_request("Produce")
    produce(kafka_broker.bootstrap, kafka_topic, b"1")
    assert (fault.met, lost.met) == (1, 1)
    assert stored(kafka_broker, kafka_topic) == [b"1"]


@pytest.mark.trio
async def test_a_trio_program_has_a_broker_of_its_own():
    async with memory_broker() as broker:
        await broker.create_topic("orders")
        assert await broker.produce("orders", b"1") == (0, 0)


@pytest.mark.trio
async def test_time_is_virtual(autojump_clock):
    async with memory_broker() as broker:
        await broker.create_topic("orders", configs={"retention.ms": "60000"})
        await broker.produce("orders", b"1")
"""
TESTS = SUITE.count("\ndef test_") + SUITE.count("\nasync def test_")


def run(folder: Path, *command: str | Path) -> str:
    """Run a command outside of this repository; return what it printed.

    Raises:
        SystemExit: it failed; what it printed is the message.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))
    }
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stdout}")
    return result.stdout


def build_wheel(folder: Path) -> Path:
    """Build a wheel of this repository into a folder; return its path."""
    run(folder, sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    [wheel] = folder.glob("trio_broker-*.whl")
    return wheel


def run_suite(folder: Path, extra_packages: list[str], pytest_options: list[str]) -> str:
    """Do all of it below an empty folder; return what pytest printed.

    Raises:
        SystemExit: something failed.
    """
    environment, project = folder / "environment", folder / "project"
    project.mkdir()
    (project / "test_orders.py").write_text(SUITE)
    wheel = build_wheel(folder)
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(folder, python, "-m", "pip", "install", "-q", f"{wheel}[test]", CLIENT, *extra_packages)
    where = run(project, python, "-c", "import trio_broker; print(trio_broker.__file__)")
    if not Path(where.strip()).is_relative_to(environment.resolve()):
        sys.exit(f"the package came from {where}")
    return run(project, python, "-m", "pytest", "-q", *pytest_options)


def main() -> None:
    """Run it and say what it took."""
    arguments = sys.argv[1:]
    options: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, options = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.packaging.fresh_project")
    parser.add_argument("--with", nargs="+", default=[], dest="packages", metavar="PACKAGE")
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        print(run_suite(Path(folder), chosen.packages, options))
    print(f"wheel, environment and suite: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
