"""What is measured: processes that listen on a port, and their use of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.server import ROOT, free_port, running_server
from tests.support.waiting import wait_until

SERVER_CPUS = (0,)
CLIENT_CPUS = (1,)
#: What a client and its queue take at most.
CLIENT_BYTES = 512 << 20

_KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
"""


@attrs.frozen
class Running:
    """A system that is up.

    Attributes:
        address: ``host:port``.
        pid: its process.
        warm_up_records: how many records it takes until it runs as fast as it will.
    """

    address: str
    pid: int
    warm_up_records: int = 20_000


@contextmanager
def scratch(directory: Path | None) -> Iterator[Path]:
    """Give a directory of its own on the disk to be measured; nothing of it stays."""
    path = Path(tempfile.mkdtemp(prefix="benchmark-", dir=directory))
    try:
        yield path
    finally:
        shutil.rmtree(path)
        os.sync()  # the next measurement must not pay for this one's dirty pages


def warm_memory(directory: Path, size_bytes: int) -> None:
    """Have this much memory ready for the page cache.

    A virtual machine may get its memory from the host only when it touches it, and give it back
    soon after it was freed. Whoever writes then pays for the host's work too, sometimes more than
    for all its own. Memory that was used a moment ago is there, so all measurements begin so. The
    client takes some of it for its queue.
    """
    size_bytes += CLIENT_BYTES
    path = directory / "warm"
    piece = bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size_bytes, len(piece)):
            file.write(piece)
    path.unlink()


@contextmanager
def trio_broker(directory: Path) -> Iterator[Running]:
    """Run this project's server."""
    with running_server(directory / "data", cpus=SERVER_CPUS) as server:
        yield Running(server.bootstrap, server.pid)


@contextmanager
def twin(directory: Path, *, syncs: bool) -> Iterator[Running]:
    """Run the blocking socket-to-file server."""
    command = [sys.executable, "-m", "tests.benchmarks.twin", str(directory / "file")]
    process = subprocess.Popen(
        [*command, "--sync"] if syncs else command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, SERVER_CPUS)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip().removeprefix("listening kafka://")
        yield Running(address, process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def apache_kafka(directory: Path, jars: Path) -> Iterator[Running]:
    """Run Apache Kafka from a directory of its jars, one node, its own defaults."""
    port = free_port()
    properties = directory / "server.properties"
    text = _KAFKA_PROPERTIES.format(port=port, controller=free_port(), data=directory / "data")
    properties.write_text(text)
    java = ["java", "-Xmx1G", "-Xms1G", "-cp", f"{jars}/*"]
    with (directory / "log").open("wb") as log:
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c",
             str(properties)],
            stdout=log, stderr=log, check=True,
        )  # fmt: skip
        process = subprocess.Popen([*java, "kafka.Kafka", str(properties)], stdout=log, stderr=log)
    os.sched_setaffinity(process.pid, SERVER_CPUS)
    address = f"127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(address), seconds=60, what="Apache Kafka")
        yield Running(address, process.pid, warm_up_records=400_000)
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=1)
    except KafkaException:
        return False
    return True


def drive(address: str, cpus: Sequence[int] = CLIENT_CPUS, **options: Any) -> dict[str, Any]:
    """Run one action of `tests.benchmarks.drive` in a process on the client's CPU.

    Raises:
        AssertionError: it failed; carries its stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.drive", address, json.dumps(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, cpus)
    output, errors = process.communicate()
    if process.returncode != 0:
        raise AssertionError(f"{options}: {errors.strip()[-2000:]}")
    return dict(json.loads(output))
