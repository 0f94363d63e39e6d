"""What the sweeps over all points of a scenario have in common: their command and its report."""

from __future__ import annotations

import argparse
import logging
import sys
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

C = TypeVar("C")


def seed_range(text: str) -> range:
    """Return the seeds from a first to a last one, like ``1-20``, or a single one."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def sweep_parser(prog: str, *, seeds: str) -> argparse.ArgumentParser:
    """Return what every sweep understands; `seeds` are those it takes if none are named."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument(
        "--seeds", type=seed_range, default=seeds, help="first and last seed, like 1-20"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th operation")
    parser.add_argument("--mutant", action="store_true", help="list the cases that find mistakes")
    parser.add_argument("--case", help="run only this case, as a failure printed it")
    return parser


def run_sweep(
    options: argparse.Namespace,
    *,
    run_text: Callable[[str], object],
    cases: Callable[[], Iterable[C]],
    error_of: Callable[[C], BaseException | None],
    mutants: Iterable[str],
    mutant_error: Callable[[str, C], BaseException | None],
) -> int:
    """Do what a command line asks for; return 1 if a promise was broken, or there was no case.

    Args:
        options: of `sweep_parser`.
        run_text: runs the case of that name, and raises what it fails with.
        cases: makes the cases to go through, anew each time.
        error_of: runs one case.
        mutants: names of planted mistakes.
        mutant_error: runs one case with a mistake in place.
    """
    logging.getLogger("trio_broker").setLevel(logging.CRITICAL)
    if options.case:
        run_text(options.case)
        return 0
    if options.mutant:
        for name in mutants:
            found = (case for case in cases() if mutant_error(name, case))
            sys.stdout.write(f"{name}: {next(found, 'not found')}\n")
        return 0
    began, count, failures = perf_counter(), 0, 0
    for case in cases():
        count += 1
        if (error := error_of(case)) is not None:
            failures += 1
            sys.stdout.write(f"--case '{case}': {error!r}\n")
            sys.stdout.flush()
    seconds = perf_counter() - began
    sys.stdout.write(f"{count} cases, {failures} failures, {seconds:.1f} s\n")
    return 1 if failures or not count else 0
