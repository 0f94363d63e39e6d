"""Programs by name, ``module:function``, so that another process can run them too."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from trio_broker.testing.sim.run import simulate
from trio_broker.testing.sim.trace import first_difference

if TYPE_CHECKING:
    from trio_broker.testing.sim.run import Main
    from trio_broker.testing.sim.trace import Difference

#: Real seconds a run in another process may take.
_SECONDS_MAX = 600.0


class TargetNotFound(ValueError):
    """A name leads to no program."""


def load(target: str) -> Main[Any]:
    """Return the async function that ``module:function`` names; it takes the simulation.

    Modules are looked for in the current directory, too.

    Raises:
        TargetNotFound: there is none.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise TargetNotFound(f"{target!r} is not of the form module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise TargetNotFound(f"there is no module {error.name!r}") from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise TargetNotFound(f"module {module_name!r} has no function {name!r}")
    if not inspect.iscoroutinefunction(found):
        raise TargetNotFound(f"{target} is not an async function")
    main: Main[Any] = found
    return main


def worker_command(job: str, target: str, **arguments: Any) -> list[str]:
    """Return the command line that runs `worker` for a program."""
    text = json.dumps({"target": target, **arguments})
    return [sys.executable, "-m", "trio_broker.testing.sim.worker", job, text]


def find_difference_elsewhere(target: str, seed: int, **options: Any) -> Difference[str] | None:
    """Run a program here and in a process with another PYTHONHASHSEED; return where they part.

    Args:
        target: the program, ``module:function``.
        seed: of both runs.
        options: of `run.simulate`, as far as they can be written as JSON.

    Raises:
        RuntimeError: the other process failed to run it.
    """
    here = simulate(load(target), seed, keep_trace=True, **options)
    hash_seed = "12345" if os.environ.get("PYTHONHASHSEED") != "12345" else "54321"
    run = subprocess.run(  # noqa: S603 - this very interpreter
        worker_command("trace", target, seed=seed, options=options),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    if run.returncode != 0:
        raise RuntimeError(f"{target} did not run in another process:\n{run.stderr}")
    return first_difference([entry.exact() for entry in here.entries], run.stdout.splitlines())
