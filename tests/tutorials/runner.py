"""Does what a tutorial says, block by block, and compares what comes out with what it shows.

Fenced blocks of a page, in order:

``console``
    Lines that begin with ``$ `` are typed into one bash that lives for the whole page; other lines
    are what must come out. A command that ends with ``\\`` goes on in the next line. ``...`` stands
    for any text within a line, or, alone in a line, for any lines. Text that differs each time
    (times, ids, sizes of disks) is compared by its kind only, and spaces by their being there.
``console`` with ``trio-broker serve`` whose output begins with ``listening``
    Runs beside everything that follows, as in a second terminal, until a line ``^C``.
``toml title="broker.toml"``, ``python title="app.py"``
    The reader saves a file of that name.

Installation is not repeated for each run of the tests: its commands are checked against
pyproject.toml. Addresses are others than in the text, which servers of other tests may have.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from tests.support.server import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0
PROMPT = "$ "
INTERRUPT = "^C"
ANYTHING = "..."
_SENTINEL = "-- the command has ended --"
_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What differs from run to run, and what stands for it. In this order.
KINDS = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?"), "<time>"),
    (re.compile(r"\b1[6-9]\d{11}\b"), "<time in ms>"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:s|ms|m \d+ s|h \d+ m)\b"), "<duration>"),
    (re.compile(r"\b\d+(?:\.\d+)? [KMGTP]iB\b"), "<size>"),
    (re.compile(r"\b\d{9,}\b"), "<number>"),
    (re.compile(r"\b\d+\.\d+\.\d+\b"), "<version>"),
    (re.compile(r"[ \t]+"), " "),
)


class TutorialFailed(AssertionError):
    """A page says one thing, and another happens."""


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        kind: its language.
        title: name of the file it is, if it is one.
        text: what stands in it.
        line: where it begins in the page.
    """

    kind: str
    title: str | None
    text: str
    line: int


class Step(NamedTuple):
    """A command, and the lines that must come out."""

    command: str
    expected: list[str]


def blocks_of(page: str) -> Iterator[Block]:
    """Find the fenced blocks of a page."""
    for match in _FENCE.finditer(page):
        yield Block(match[1], match[2], match[3], page.count("\n", 0, match.start()) + 1)


def steps_of(text: str) -> list[Step]:
    """Split a console block into commands with their output."""
    steps: list[Step] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(PROMPT):
            command = line.removeprefix(PROMPT)
            while command.endswith("\\"):
                command += "\n" + next(lines)
            steps.append(Step(command, []))
        elif line == INTERRUPT:
            steps.append(Step(INTERRUPT, []))
        else:
            assert steps, f"output without a command: {line}"
            steps[-1].expected.append(line)
    return steps


def by_kind(line: str) -> str:
    """Write the same for what may differ."""
    for pattern, stand_in in KINDS:
        line = pattern.sub(stand_in, line)
    return line.strip()


def matches(expected: list[str], actual: list[str]) -> bool:
    """Compare output with what a page shows."""
    while expected and not expected[-1].strip():
        expected = expected[:-1]
    while actual and not actual[-1].strip():
        actual = actual[:-1]
    if not expected:
        return not actual
    first, rest = expected[0], expected[1:]
    if first.strip() == ANYTHING:
        return any(matches(rest, actual[skipped:]) for skipped in range(len(actual) + 1))
    if not actual:
        return False
    pattern = ".*".join(map(re.escape, by_kind(first).split(ANYTHING)))
    return re.fullmatch(pattern, by_kind(actual[0])) is not None and matches(rest, actual[1:])


def check_installation(command: str) -> bool:
    """Tell whether a command installs something; if so, that it is there to be installed."""
    if re.match(r"python3 -m venv |\. \S+/activate", command):
        return True
    if not command.startswith("pip install "):
        return False
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = re.fullmatch(r"pip install '\./([\w-]+)(?:\[([\w,]+)\])?'", command)
    assert found is not None, f"{command}: nothing is on PyPI"
    assert found[1] == project["name"], command
    extras = set((found[2] or "").split(",")) - {""}
    assert extras <= set(project["optional-dependencies"]), command
    return True


class Tutorial:
    """A reader at work in a folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        kafka, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        #: Address in the text to the one in use.
        self._addresses = {
            "127.0.0.1:9092": kafka,
            "127.0.0.1:9644": http,
            "localhost:9644": http,
        }
        programs = str(Path(sys.executable).parent)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TRIO_BROKER_BOOTSTRAP": kafka,
            "TRIO_BROKER_LISTENERS": kafka,
            "TRIO_BROKER_HTTP__LISTEN": http,
            # Nobody waits in a test for what others might want to do meanwhile.
            "TRIO_BROKER_SHUTDOWN__READY_GRACE_SECONDS": "0",
            "TRIO_BROKER_GROUP__INITIAL_REBALANCE_DELAY_MS": "0",
            "NO_COLOR": "1",
        }
        self._server: subprocess.Popen[str] | None = None
        self._bash = stack.enter_context(self._popen(["bash"], stdin=subprocess.PIPE))
        stack.callback(self._end)

    def _popen(self, command: list[str], **keywords: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            **keywords,
        )

    def _end(self) -> None:
        for process in filter(None, (self._server, self._bash)):
            process.kill()

    def do(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            TutorialFailed: something else came of it.
        """
        if block.title is not None:
            (self._folder / block.title).write_text(block.text)
        elif block.kind == "console":
            for step in steps_of(block.text):
                self._step(step, block)

    def _step(self, step: Step, block: Block) -> None:
        if step.command == INTERRUPT:
            self._compare(step, self._interrupt(), block)
            return
        if check_installation(step.command):
            return
        starts = step.command.startswith("trio-broker serve")
        if starts and step.expected and step.expected[0].startswith("listening"):
            self._serve(step, block)
            return
        self._compare(step, self._type(step.command), block)

    def _compare(self, step: Step, actual: list[str], block: Block) -> None:
        shown = [self._as_in_the_text(line) for line in actual]
        if not matches(step.expected, shown):
            raise TutorialFailed(
                f"line {block.line}: $ {step.command}\nis to print\n"
                + "\n".join(f"  {line}" for line in step.expected)
                + "\nand prints\n"
                + "\n".join(f"  {line}" for line in shown)
            )

    def _as_in_the_text(self, line: str) -> str:
        for in_text, real in self._addresses.items():
            line = line.replace(real, in_text)
        return line

    def _type(self, command: str) -> list[str]:
        """Type a command into bash and return what it prints."""
        for in_text, real in self._addresses.items():
            command = command.replace(in_text, real)
        assert self._bash.stdin is not None
        # The exit code stays what $? says in the next command.
        self._bash.stdin.write(f'{command}\n__=$?; echo; echo "{_SENTINEL}"; (exit $__)\n')
        self._bash.stdin.flush()
        lines = list(_lines_until(self._bash.stdout, _SENTINEL))
        return lines[:-1] if lines and not lines[-1] else lines

    def _serve(self, step: Step, block: Block) -> None:
        """Start a server; what it prints before it serves must be what stands first."""
        assert self._server is None, "the one before is still running"
        command = ["bash", "-c", f"exec {step.command}"]
        self._server = self._stack.enter_context(self._popen(command))
        expected = [line for line in step.expected if line.startswith("listening")]
        assert self._server.stdout is not None
        seen: list[str] = []
        while sum(line.startswith("listening") for line in seen) < len(expected):
            line = self._server.stdout.readline()
            if not line:
                raise TutorialFailed(f"line {block.line}: the server has ended:\n{''.join(seen)}")
            seen.append(line)
        listening = [line.rstrip("\n") for line in seen if line.startswith("listening")]
        self._compare(Step(step.command, expected), listening, block)

    def _interrupt(self) -> list[str]:
        """Press Ctrl-C in the other terminal, and return what comes then."""
        assert self._server is not None, "nothing runs that could be interrupted"
        server, self._server = self._server, None
        server.send_signal(signal.SIGINT)
        said, _ = server.communicate(timeout=PATIENCE_SECONDS)
        if server.returncode != 0:
            raise TutorialFailed(f"the server ended with {server.returncode}:\n{said}")
        return said.splitlines()


def _lines_until(pipe: IO[str] | None, end: str) -> Iterator[str]:
    assert pipe is not None
    for line in pipe:
        if line.rstrip("\n") == end:
            return
        yield line.rstrip("\n")
    raise TutorialFailed("bash has ended")


def run_page(page: str, folder: Path) -> int:
    """Do everything that a page says; return how many blocks that were.

    Raises:
        TutorialFailed: something else came of it.
    """
    count = 0
    with ExitStack() as stack:
        tutorial = Tutorial(folder, stack)
        for block in blocks_of(page):
            tutorial.do(block)
            count += 1
    return count
