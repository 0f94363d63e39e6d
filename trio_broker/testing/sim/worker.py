"""What a process does that `targets` or `fuzz` started: ``python -m ...worker JOB ARGUMENTS``.

`trace` runs one seed and writes its trace to stdout. `fuzz` runs one seed after the other until
it is ended, and writes a line of JSON for each failure of a new kind and, about once a second, for
its progress. ARGUMENTS are JSON too.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from itertools import count
from typing import Any

from trio_broker.testing.sim.exploration import explore, kind_of
from trio_broker.testing.sim.run import simulate
from trio_broker.testing.sim.targets import load

_PROGRESS_SECONDS = 1.0


def trace(arguments: dict[str, Any]) -> None:
    """Run one seed and write every entry of its trace."""
    main = load(arguments["target"])
    result = simulate(main, arguments["seed"], keep_trace=True, **arguments["options"])
    sys.stdout.write("".join(f"{entry.exact()}\n" for entry in result.entries))


def fuzz(arguments: dict[str, Any]) -> None:
    """Run seeds for ever: `first`, and then every `stride`-th one."""
    main, options = load(arguments["target"]), arguments["options"]
    seen: set[tuple[str, str, int]] = set()
    runs = steps = 0
    told_at = float("-inf")  # the first one is told at once: whether any has ended says much
    for seed in count(arguments["first"], arguments["stride"]):
        # Of a kind that is known already only the number counts.
        explored = explore(main, [seed], shrink_seconds=0.0, **options, double_run=0.0)
        runs += 1
        steps += explored.steps
        if explored.failure is not None:
            kind = kind_of(explored.failure.result.error)
            _tell(runs=runs, steps=steps)
            runs = steps = 0
            if not kind <= seen:
                seen |= kind
                _tell_failure(main, seed, arguments, str(sorted(kind)))
            else:
                _tell(kind=str(sorted(kind)), seed=seed)
        elif arguments["double_every"] and runs % arguments["double_every"] == 1:
            twice = explore(main, [seed], double_run=1.0, **options)
            if twice.failure is not None:
                kind = kind_of(twice.failure.result.error)
                _tell(
                    kind=str(sorted(kind)),
                    seed=seed,
                    report=twice.failure.report(with_traceback=True),
                    token=None,
                )
        if time.perf_counter() - told_at >= _PROGRESS_SECONDS:
            _tell(runs=runs, steps=steps)
            runs = steps = 0
            told_at = time.perf_counter()


def _tell_failure(main: Any, seed: int, arguments: dict[str, Any], kind: str) -> None:
    explored = explore(
        main,
        [seed],
        double_run=0.0,
        shrink_seconds=arguments["shrink_seconds"],
        **arguments["options"],
    )
    if explored.failure is None:
        _tell(kind=kind, seed=seed, report=f"seed {seed} fails, but not always", token=None)
        return
    failure = explored.failure
    _tell(kind=kind, seed=seed, report=failure.report(with_traceback=True), token=failure.token)


def _tell(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Do the job that the command line names."""
    job, text = arguments
    {"trace": trace, "fuzz": fuzz}[job](json.loads(text))


if __name__ == "__main__":
    # Imported by its name: task names, and so the hashes, contain names of modules.
    importlib.import_module("trio_broker.testing.sim.worker").main(sys.argv[1:])
