"""The one command that checks everything: ``python -m tests.check``.

Runs each step in its own process, prints what it took, and ends with pytest's own summary. The
exit code is 0 only if every step passed. Options:

    --fix    let ruff mend what it can first
    --fast   skip the tests marked slow
    --only   run just the named steps, for example ``--only types tests``

What follows ``--`` goes to pytest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FOLDERS = ["trio_broker", "tests", "docs"]


def tool(name: str) -> str:
    """Return the path of a program installed beside the running interpreter."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        sys.exit(f"{name} is not installed here; run: {sys.executable} -m pip install -e '.[dev]'")
    return str(path)


def package_files() -> list[str]:
    """Return the package's source files, for the one tool that takes no folders."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "trio_broker").rglob("*.py"))


def static_steps(*, fix: bool) -> dict[str, list[list[str]]]:
    """Return the commands of each step that runs no code of the package."""
    ruff = tool("ruff")
    if fix:
        format_commands = [[ruff, "check", "--fix", "--exit-zero", "--quiet", *PYTHON_FOLDERS]]
        format_commands.append([ruff, "format", *PYTHON_FOLDERS])
    else:
        format_commands = [[ruff, "format", "--check", *PYTHON_FOLDERS]]
    return {
        "format": format_commands,
        "lint": [[ruff, "check", *PYTHON_FOLDERS]],
        "async": [[tool("flake8-async"), "--enable", "ASYNC", *package_files()]],
        "imports": [[tool("lint-imports"), "--no-logo"]],
        "types": [[tool("mypy")]],
        "tidy": [[sys.executable, "-m", "pytest", "-q", "--no-header", "tests/tidy"]],
    }


def run_quietly(commands: list[list[str]]) -> bool:
    """Run the commands of one step; show their output only if one fails."""
    for command in commands:
        result = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if result.returncode != 0:
            sys.stdout.write(result.stdout.decode(errors="replace"))
            print(f"  command: {' '.join(command[:8])}{' ...' if len(command) > 8 else ''}")
            return False
    return True


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
    parser = argparse.ArgumentParser(prog="python -m tests.check", description=__doc__)
    parser.add_argument("--fix", action="store_true", help="let ruff mend what it can first")
    parser.add_argument("--fast", action="store_true", help="skip tests marked slow")
    parser.add_argument("--only", nargs="+", default=None, metavar="STEP", help="just these steps")
    options = parser.parse_args(arguments)

    steps = static_steps(fix=options.fix)
    names = options.only or [*steps, "tests"]
    if unknown := sorted(set(names) - {*steps, "tests"}):
        parser.error(f"unknown step {', '.join(unknown)}; there are {', '.join([*steps, 'tests'])}")
    took: list[str] = []
    failed: list[str] = []
    for name in [*steps, "tests"]:
        if name not in names:
            continue
        started = time.perf_counter()
        if name == "tests":
            print(f"{'tests':<8} pytest follows", flush=True)
            passed = run_tests(fast=options.fast, tidy_ran="tidy" in names, extra=extra)
        else:
            passed = run_quietly(steps[name])
        seconds = time.perf_counter() - started
        print(f"{name:<8} {'ok' if passed else 'FAILED':<7}{seconds:7.1f} s", flush=True)
        took.append(f"{name} {seconds:.1f}")
        if not passed:
            failed.append(name)
    print(f"seconds: {', '.join(took)}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
        return 1
    print("all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
