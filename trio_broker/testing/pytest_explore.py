"""How an explored test runs: seeds, what is remembered of failures, and what pytest shows of them.

Called by `pytest_plugin`, once per explored test. Fixtures are set up once, before the first seed,
and are the same in all of them; only `sim` is made anew for each.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trio_broker.testing.pytest_plugin import SIMULATION_TO_COME
from trio_broker.testing.sim import private
from trio_broker.testing.sim.exploration import (
    DOUBLE_RUN,
    SEEDS,
    Failure,
    NotRepeatable,
    OtherLoops,
    explore,
    parse_seeds,
    repeat,
)
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.testing.sim.trace import first_difference
from trio_broker.testing.simulation import BrokerSimulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_broker.testing.sim.run import Result

#: Failing seeds of one test that are remembered, to begin with them the next time.
_REMEMBERED_MAX = 10
_CACHE_KEY = "trio_broker/failed_seeds"
#: Tells a process that it has been started to be without other Trio loops.
_CHILD_VARIABLE = "TRIO_BROKER_TEST_EXPLORED_ALONE"
#: Real seconds a test may take in a process of its own.
_CHILD_SECONDS_MAX = 3600.0
_OPTIONS = frozenset({"seeds", "policy", "max_steps", "max_seconds", "double_run", "allow"})
#: How a test says something else than that it failed.
_VERDICTS = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)


class ExploredTest:
    """One explored test with the values of its fixtures."""

    def __init__(
        self, item: pytest.Function, test: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        for name, value in arguments.items():
            if inspect.isawaitable(value) or inspect.isasyncgen(value):
                pytest.fail(
                    f"the fixture {name!r} is async: an explored test opens what it needs itself,"
                    " with `async with`, since each seed needs a new one",
                    pytrace=False,
                )
        mark = item.get_closest_marker("explore")
        self._options: dict[str, Any] = dict(mark.kwargs) if mark is not None else {}
        if (mark is not None and mark.args) or not self._options.keys() <= _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            pytest.fail(f"explore takes these, by name: {known}", pytrace=False)
        self._options["simulation_type"] = BrokerSimulation
        self._wanted = self._options.pop("seeds", SEEDS)
        if not _are_seeds(self._wanted):
            pytest.fail(
                f"explore: seeds is how many to run, or a list of them, not {self._wanted!r}",
                pytrace=False,
            )
        self._item = item
        self._config = item.config
        self._test = test
        self._arguments = arguments
        self._last: Result[Any] | None = None

    async def _main(self, simulation: Simulation) -> None:
        await self._test(
            **{
                name: simulation if value is SIMULATION_TO_COME else value
                for name, value in self._arguments.items()
            }
        )

    def run(self) -> None:
        """Run the test as the options of pytest and of its mark say."""
        __tracebackhide__ = True
        if loops := private.threads_with_loops():
            if _CHILD_VARIABLE in os.environ:
                error = OtherLoops(loops)  # a fixture of every test has started it: here too
                error.add_note("A broker in a simulation is sim.broker(), or memory_broker().")
                raise error
            self._run_in_child()
            return
        if (token := self._config.getoption("--sim-replay")) is not None:
            self._replay(token)
            return
        failed = self._failed_seeds()
        try:
            explored = explore(
                self._main,
                self._seeds(failed),
                **{"double_run": DOUBLE_RUN, **self._options},
                shrink_seconds=self._config.getoption("--sim-shrink"),
                is_failure=_is_failure,
                on_run=self._keep,
            )
        except BaseExceptionGroup as group:
            raise _innermost(group) from None
        failure = explored.failure
        if failure is None:
            self._remember([])
            if self._config.getoption("--sim-other-process"):
                self._compare_with_other_process()
            self._write_trace()
            return
        seed = failure.result.seed
        self._remember([seed, *(other for other in failed if other != seed)])
        self._fail(failure)

    def _keep(self, result: Result[Any]) -> None:
        self._last = result

    # ------------------------------------------------------------------------------------- seeds

    def _seeds(self, failed: Sequence[int]) -> Iterable[int]:
        if (seed := self._config.getoption("--sim-seed")) is not None:
            return [seed]
        first = int(self._config.getoption("--sim-first-seed"), 0)
        if (text := self._config.getoption("--sim-seeds")) is not None:
            try:
                return parse_seeds(text, first)
            except ValueError as error:
                raise pytest.UsageError(f"--sim-seeds: {error}") from None
        wanted = self._wanted
        seeds = range(first, first + wanted) if isinstance(wanted, int) else list(wanted)
        return [*failed, *(seed for seed in seeds if seed not in failed)] if failed else seeds

    def _failed_seeds(self) -> list[int]:
        cache = getattr(self._config, "cache", None)  # not there without that plugin
        known = cache.get(_CACHE_KEY, {}) if cache is not None else {}
        return [int(seed) for seed in known.get(self._item.nodeid, ())]

    def _remember(self, seeds: list[int]) -> None:
        """Begin with these seeds the next time, after a run that has tried those of before."""
        cache, options = getattr(self._config, "cache", None), self._config.option
        if cache is None or options.sim_seed is not None or options.sim_seeds is not None:
            return
        known = cache.get(_CACHE_KEY, {})
        if known.get(self._item.nodeid, []) != seeds:
            known[self._item.nodeid] = seeds[:_REMEMBERED_MAX]
            cache.set(_CACHE_KEY, {node: known[node] for node in known if known[node]})

    # ------------------------------------------------------------------------------ what is shown

    def _replay(self, token: str) -> None:
        __tracebackhide__ = True
        options = {name: self._options[name] for name in self._options if name != "double_run"}
        try:
            result = repeat(self._main, token, keep_trace=True, **options)
        except ValueError as error:
            raise pytest.UsageError(f"--sim-replay: {error}") from None
        self._keep(result)
        self._write_trace()
        if result.error is None:
            return
        if not _is_failure(result.error):
            raise _innermost(result.error)
        self._show(Failure(result), f"{self._command()} --sim-replay {token}")
        raise result.error

    def _fail(self, failure: Failure) -> None:
        __tracebackhide__ = True
        self._keep(failure.smallest)
        self._write_trace()
        token = failure.token
        if token is None:
            line = f"{self._command()} --sim-seed {failure.result.seed}"
        else:
            line = f"{self._command()} --sim-replay {token}"
        self._show(failure, line)
        raise failure.error

    def _show(self, failure: Failure, line: str) -> None:
        report = failure.report([line], steps=self._config.getoption("--sim-steps"))
        self._item.add_report_section("call", "simulation", report)
        failure.error.add_note(f"in a simulation; repeat it: {line}")

    def _command(self) -> str:
        return f"pytest {shlex.quote(self._node())}"

    def _node(self) -> str:
        """Return the node id of the test as it can be given where pytest was started."""
        _, colons, rest = self._item.nodeid.partition("::")
        return os.path.relpath(self._item.path, self._config.invocation_params.dir) + colons + rest

    # ---------------------------------------------------------------------------- other processes

    def _write_trace(self) -> None:
        path, result = self._config.getoption("--sim-trace"), self._last
        if path is not None and result is not None:
            if not result.is_traced:
                result = self._traced(result.seed)
            Path(path).write_text("".join(f"{entry.exact()}\n" for entry in result.entries))

    def _traced(self, seed: int) -> Result[Any]:
        """Run a seed once more and keep its whole trace."""
        options = {name: self._options[name] for name in self._options if name != "double_run"}
        return simulate(self._main, seed, keep_trace=True, **{"policy": "mix", **options})

    def _compare_with_other_process(self) -> None:
        assert self._last is not None
        seed = self._last.seed
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "trace")
            options = [f"--sim-seed={seed}", f"--sim-trace={file}", "--sim-shrink=0"]
            run = self._child(options, PYTHONHASHSEED=_other_hash_seed())
            if not file.exists():
                pytest.fail(f"seed {seed} did not run in another process:\n{run.stdout}")
            theirs = file.read_text().splitlines()
        ours = [entry.exact() for entry in self._traced(seed).entries]
        difference = first_difference(ours, theirs)
        if difference is not None:
            error = NotRepeatable(seed, difference, ours[: difference.position][-5:])
            error.add_note("the second run was in another process, with another PYTHONHASHSEED")
            raise error

    def _child(self, options: Sequence[str], **environment: str) -> Any:
        """Run this one test by pytest in a process of its own."""
        config = self._config
        command = [sys.executable, "-m", "pytest", self._node(), "-q", "-p", "no:cacheprovider"]
        if config.inipath is not None:
            command += ["-c", str(config.inipath)]
        command += [f"--rootdir={config.rootpath}"]
        for plugin in config.getoption("plugins") or ():
            command += ["-p", plugin]
        for override in config.getoption("override_ini") or ():
            command += ["-o", override]
        return subprocess.run(  # noqa: S603 - what runs this process, with one of its tests
            [*command, *options],
            cwd=config.invocation_params.dir,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_CHILD_SECONDS_MAX,
            check=False,
        )

    def _run_in_child(self) -> None:
        """Run the test where no other Trio loop is in its way, and pass its verdict on."""
        option = self._config.option
        options = [f"--sim-first-seed={option.sim_first_seed}", f"--sim-shrink={option.sim_shrink}"]
        options.append(f"--sim-steps={option.sim_steps}")
        for name in ("sim_seed", "sim_replay", "sim_seeds", "sim_trace"):
            if (value := getattr(option, name)) is not None:
                options.append(f"--{name.replace('_', '-')}={value}")
        run = self._child(options, **{_CHILD_VARIABLE: "1"})
        if run.returncode == pytest.ExitCode.OK:
            if "1 skipped" in run.stdout.rpartition("\n")[0]:
                pytest.skip("in a process of its own")
            return
        # pytest's summary has the first line only.
        verdict = re.search(r"^seed \d+ fails: .*\n", run.stdout, re.MULTILINE)
        pytest.fail(
            (verdict[0] if verdict else "")
            + "run in a process of its own, since Trio runs in another thread of this one:\n"
            + run.stdout,
            pytrace=False,
        )


def _are_seeds(wanted: object) -> bool:
    """Tell whether a mark asks for at least one seed, in one of the two ways to do so."""
    if isinstance(wanted, range | list | tuple | set | frozenset):
        return len(wanted) > 0 and all(type(seed) is int for seed in wanted)
    return type(wanted) is int and wanted > 0


def _other_hash_seed() -> str:
    """Return a PYTHONHASHSEED that is not this process's."""
    return "12345" if os.environ.get("PYTHONHASHSEED") != "12345" else "54321"


def _is_failure(error: BaseException) -> bool:
    """Tell a test that failed from one that was skipped, or says that it is expected to fail."""
    return not isinstance(_innermost(error), _VERDICTS)


def _innermost(error: BaseException) -> BaseException:
    """Return what is in a group of one, and in the group in that; what nurseries make of a skip."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
