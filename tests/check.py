"""The one command that checks everything: ``python -m tests.check``.

Runs each step in its own process (those that only read at the same time), prints what it took, and
ends with pytest's own summary. The exit code is 0 only if every step passed. Options:

    --fix    let ruff mend what it can first
    --fast   skip the tests marked slow
    --only   run just the named steps, for example ``--only types tests``

What follows ``--`` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FOLDERS = ["trio_broker", "tests", "docs"]


def tool(name: str) -> str:
    """Return the path of a program installed beside the running interpreter."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        sys.exit(f"{name} is not installed here; run: {sys.executable} -m pip install -e '.[dev]'")
    return str(path)


def async_files() -> list[str]:
    """Return the files of the package that have anything to do with Trio.

    flake8-async takes no folders, and a tenth of a second for each file.
    """
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "trio_broker").rglob("*.py")
        if "trio." in path.read_text("utf-8") or "async " in path.read_text("utf-8")
    )


class Outcome(NamedTuple):
    """How one step ended."""

    name: str
    passed: bool
    seconds: float
    output: str


def static_steps() -> dict[str, list[str]]:
    """Return the command of each step that can run beside the others."""
    ruff = tool("ruff")
    # Left out: checkpoints on every path (9xx), since per-request paths must not have more than
    # they need; 114 and 128 know no function that passes task_status on.
    flake8_async = [tool("flake8-async"), "--enable=ASYNC", "--disable=ASYNC9,ASYNC114,ASYNC128"]
    return {
        "format": [ruff, "format", "--check", *PYTHON_FOLDERS],
        "lint": [ruff, "check", *PYTHON_FOLDERS],
        "imports": [tool("lint-imports"), "--no-logo"],
        "types": [tool("mypy")],
        "async": [*flake8_async, *async_files()],
        "tidy": [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/tidy"],
    }


def fix() -> None:
    """Let ruff mend what it can, quietly: the steps that follow tell what is left."""
    ruff = tool("ruff")
    subprocess.run(
        [ruff, "check", "--fix", "--exit-zero", "--silent", *PYTHON_FOLDERS], cwd=ROOT, check=True
    )
    subprocess.run([ruff, "format", "--quiet", *PYTHON_FOLDERS], cwd=ROOT, check=False)


def run_quietly(name: str, command: list[str]) -> Outcome:
    """Run one step and keep its output."""
    started = time.perf_counter()
    result = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    seconds = time.perf_counter() - started
    return Outcome(name, result.returncode == 0, seconds, result.stdout.decode(errors="replace"))


def run_tests(*, fast: bool, tidy_ran: bool, extra: list[str]) -> bool:
    """Run pytest with its output passed straight through."""
    command = [sys.executable, "-m", "pytest", "--durations=10", "--durations-min=2"]
    if tidy_ran:
        command.append("--ignore=tests/tidy")
    if fast:
        command += ["-m", "not slow"]
    return subprocess.run([*command, *extra], cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run the steps that the command line asks for; return the exit code."""
    arguments = sys.argv[1:]
    extra: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, extra = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tests.check", description="Check everything; after -- options of pytest."
    )
    parser.add_argument("--fix", action="store_true", help="let ruff mend what it can first")
    parser.add_argument("--fast", action="store_true", help="skip tests marked slow")
    parser.add_argument("--only", nargs="+", default=None, metavar="STEP", help="just these steps")
    options = parser.parse_args(arguments)

    steps = static_steps()
    names = options.only or [*steps, "tests"]
    if unknown := sorted(set(names) - {*steps, "tests"}):
        parser.error(f"unknown step {', '.join(unknown)}; there are {', '.join([*steps, 'tests'])}")
    if options.fix:
        fix()
    failed: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chosen = [pool.submit(run_quietly, name, steps[name]) for name in steps if name in names]
        for future in chosen:
            outcome = future.result()
            if not outcome.passed:
                failed.append(outcome.name)
                sys.stdout.write(outcome.output)
            report(outcome.name, passed=outcome.passed, seconds=outcome.seconds)
    if "tests" in names:
        print(f"{'tests':<8} pytest follows", flush=True)
        started = time.perf_counter()
        passed = run_tests(fast=options.fast, tidy_ran="tidy" in names, extra=extra)
        if not passed:
            failed.append("tests")
        report("tests", passed=passed, seconds=time.perf_counter() - started)
    print(f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def report(name: str, *, passed: bool, seconds: float) -> None:
    """Print how a step ended and what it took."""
    print(f"{name:<8} {'ok' if passed else 'FAILED':<7}{seconds:7.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
