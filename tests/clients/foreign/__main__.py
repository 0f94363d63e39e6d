"""Clients in other languages against this broker: ``python -m tests.clients.foreign``.

Builds each program with its language's own tools (go, npm, mvn and java; those that are missing are
named and left out), and runs each against a fresh ``trio-broker serve``: topics, records with every
codec the client has, a group that reads them back in order, commits, admin calls, delete and create
again. A program prints ``ok STEP`` for what worked and ends with an exit code; exit code 1 here if
any failed. ``--only franz-go java`` runs just those; ``--bootstrap HOST:PORT`` runs them against
another broker, Apache Kafka for instance.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.support.server import running_server

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 600.0
RUN_SECONDS = 240.0


@attrs.frozen
class Toolchain:
    """How programs of one language are built, in a copy of their folder.

    Attributes:
        folder: where their sources lie.
        programs: what must be installed.
        build: the command that fetches and builds what they need.
    """

    folder: str
    programs: tuple[str, ...]
    build: tuple[str, ...]


GO = Toolchain("go", ("go",), ("go", "build", "-o", "bin/", "./..."))
NODE = Toolchain("node", ("node", "npm"), ("npm", "install", "--silent", "--no-package-lock"))
JAVA = Toolchain(
    "java",
    ("java", "mvn"),
    ("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"),
)

#: How each client's program is started, in its toolchain's folder; the broker's address follows.
CLIENTS: dict[str, tuple[Toolchain, tuple[str, ...]]] = {
    "franz-go": (GO, ("bin/franz_go",)),
    "sarama": (GO, ("bin/sarama",)),
    "kafka-go": (GO, ("bin/kafka_go",)),
    "kafkajs": (NODE, ("node", "kafkajs.js")),
    "@platformatic/kafka": (NODE, ("node", "platformatic.js")),
    "java": (JAVA, ("java", "-cp", "jars/*", "Main.java")),
}


@attrs.frozen
class Outcome:
    """How one client's run ended."""

    client: str
    version: str
    passed: bool
    seconds: float
    said: str


def build(toolchain: Toolchain, directory: Path) -> str | None:
    """Build a language's programs in `directory`; return what is missing or went wrong."""
    missing = [program for program in toolchain.programs if shutil.which(program) is None]
    if missing:
        return f"NOT TESTED, not installed: {', '.join(missing)}"
    shutil.copytree(HERE / toolchain.folder, directory)
    result = subprocess.run(
        toolchain.build,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if result.returncode == 0:
        return None
    return "cannot be built:\n" + result.stdout.decode(errors="replace")


@contextmanager
def broker_at(bootstrap: str | None, data_dir: Path) -> Iterator[str]:
    """Yield the address of a broker: the one named, or a fresh server."""
    if bootstrap is not None:
        yield bootstrap
        return
    with running_server(data_dir) as server:
        yield server.bootstrap
        code = server.stop()
    if code != 0:
        raise SystemExit(f"the server ended with {code}")


def run_client(client: str, directory: Path, bootstrap: str) -> Outcome:
    """Run one client's program to its end."""
    _, command = CLIENTS[client]
    program = directory / command[0]
    started = time.perf_counter()
    try:
        result = subprocess.run(
            [str(program) if program.exists() else command[0], *command[1:], bootstrap],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS,
            check=False,
        )
        said, passed = result.stdout.decode(errors="replace"), result.returncode == 0
    except subprocess.TimeoutExpired as timeout:
        said, passed = (timeout.stdout or b"").decode(errors="replace") + "\nTIMED OUT", False
    versions = [line[8:] for line in said.splitlines() if line.startswith("version ")]
    return Outcome(
        client, versions[0] if versions else "?", passed, time.perf_counter() - started, said
    )


def main() -> int:
    """Build and run the clients that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.foreign", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker that runs already")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="trio-broker-foreign-") as scratch:
        troubles: dict[str, str | None] = {}
        for client in options.only:
            toolchain, _ = CLIENTS[client]
            directory = Path(scratch, toolchain.folder)
            if toolchain.folder not in troubles:
                print(f"building {toolchain.folder} ...", file=sys.stderr, flush=True)
                troubles[toolchain.folder] = build(toolchain, directory)
            if (trouble := troubles[toolchain.folder]) is not None:
                failed = failed or not trouble.startswith("NOT TESTED")
                print(f"{client}: {trouble}")
                continue
            data_dir = Path(scratch, f"data-{len(os.listdir(scratch))}")
            with broker_at(options.bootstrap, data_dir) as bootstrap:
                outcome = run_client(client, directory, bootstrap)
            failed = failed or not outcome.passed
            word = "ok" if outcome.passed else "FAILED"
            print(f"{client} {outcome.version}: {word} after {outcome.seconds:.1f} s")
            print("".join(f"    {line}\n" for line in outcome.said.splitlines()), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
