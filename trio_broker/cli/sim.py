"""``trio-broker sim``: run, replay, shrink and fuzz a program in a deterministic simulation.

The program is a function of the user's, ``module:function``, or an explored test, by its pytest
node id; the latter is left to pytest, with the options of our plugin.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from trio_broker.cli.exits import EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.testing.sim.exploration import Failure
    from trio_broker.testing.sim.fuzz import Found, Fuzzed

_POLICIES = ("mix", "random", "pct", "fifo")


@click.group()
def sim() -> None:
    """Run programs in a deterministic simulation.

    TARGET is an async function, as `module:function`, that takes the simulation; or the pytest
    node id of a test marked explore. Exit code: 0 passed, 1 failed, 2 usage.
    """


def _is_node(target: str) -> bool:
    return "::" in target or target.endswith(".py")


def _program_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every run can be told, and turn mistakes in it into exit code 2."""

    @functools.wraps(command)
    def run(target: str, allow: tuple[str, ...], **options: Any) -> None:
        from trio_broker.testing.sim.targets import TargetNotFound, load

        given = {
            name: value
            for name in ("max_steps", "max_seconds")
            if (value := options.pop(name)) is not None
        }
        given |= {"allow": allow} if allow else {}
        try:
            if not _is_node(target):
                load(target)
        except TargetNotFound as error:
            raise click.UsageError(str(error)) from None
        if _is_node(target) and given:
            raise click.UsageError("a test says in its mark how it is run")
        command(target=target, given=given, **options)

    for option in (
        click.option("--allow", metavar="MODULE", multiple=True, help="May touch the machine."),
        click.option("--max-seconds", type=float, help="Virtual seconds of a run, at most."),
        click.option("--max-steps", type=click.IntRange(1), help="Task steps of a run, at most."),
        click.argument("target"),
    ):
        run = option(run)
    return run


_policy = click.option(
    "--policy",
    type=click.Choice(_POLICIES),
    default="mix",
    show_default=True,
    help="Which task goes next.",
)
_seed = click.option("--seed", type=int, required=True, help="The seed that failed.")


@sim.command()
@_program_options
@_policy
@click.option("--seed", type=int, help="Run this seed only, and tell more of it.")
@click.option("--seeds", metavar="N|FIRST-LAST", default="100", show_default=True)
@click.option("--other-process", is_flag=True, help="Compare with another process.")
def run(
    target: str,
    given: dict[str, Any],
    policy: str,
    seed: int | None,
    seeds: str,
    *,
    other_process: bool,
) -> None:
    """Run TARGET with many seeds until one fails, or with one."""
    if _is_node(target):
        which = [f"--sim-seeds={seeds}"] if seed is None else [f"--sim-seed={seed}"]
        which += ["--sim-other-process"] if other_process else []
        sys.exit(_run_test(target, *which))
    from trio_broker.testing.sim.exploration import explore, parse_seeds
    from trio_broker.testing.sim.targets import find_difference_elsewhere, load

    try:
        chosen = parse_seeds(seeds, 0) if seed is None else range(seed, seed + 1)
    except ValueError as error:
        raise click.UsageError(f"--seeds: {error}") from None
    explored = explore(
        load(target),
        chosen,
        policy=policy,
        on_run=(lambda _: None) if seed is None else _show_run,
        **given,
    )
    if explored.failure is not None:
        _fail(target, explored.failure, policy)
    if other_process:
        difference = find_difference_elsewhere(target, chosen[0], policy=policy, **given)
        if difference is not None:
            click.echo(f"seed {chosen[0]} does something else in another process, at entry")
            click.echo(f"{difference.position}: {difference.first}\nthere: {difference.second}")
            sys.exit(EXIT_FAILED)
    passed = "1 seed passed" if explored.runs == 1 else f"{explored.runs:,} seeds passed"
    click.echo(f"{passed}: {explored.steps:,} steps in {explored.seconds:.2f} s")


def _show_run(result: Any) -> None:
    for name, value in result.drawn.items():
        click.echo(f"{name} = {value!r}")
    click.echo(
        f"seed {result.seed}: {result.steps} steps, {result.virtual_seconds:.6f} virtual seconds,"
        f" policy {result.policy}, trace {result.trace_hash}"
    )


@sim.command()
@_program_options
@click.argument("token")
def replay(target: str, given: dict[str, Any], token: str) -> None:
    """Repeat the run of TARGET that printed TOKEN."""
    if _is_node(target):
        sys.exit(_run_test(target, f"--sim-replay={token}"))
    from trio_broker.testing.sim.exploration import Failure, repeat
    from trio_broker.testing.sim.targets import load

    try:
        result = repeat(load(target), token, keep_trace=True, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if result.error is not None:
        _fail(target, Failure(result), "", token)
    _show_run(result)
    click.echo("passed")


@sim.command()
@_program_options
@_policy
@_seed
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Real time for it.")
def shrink(target: str, given: dict[str, Any], policy: str, seed: int, seconds: float) -> None:
    """Make the failing run of a seed as small as the time allows."""
    if _is_node(target):
        sys.exit(_run_test(target, f"--sim-seed={seed}", f"--sim-shrink={seconds}"))
    from trio_broker.testing.sim.exploration import explore
    from trio_broker.testing.sim.targets import load

    explored = explore(load(target), [seed], policy=policy, shrink_seconds=seconds, **given)
    if explored.failure is not None:
        _fail(target, explored.failure, policy)
    click.echo(f"seed {seed} passes")


@sim.command()
@_program_options
@_policy
@click.option("--minutes", type=float, default=1.0, show_default=True, help="Real time.")
@click.option("--jobs", type=click.IntRange(1), help="Processes (default: one per core).")
@click.option("--kinds", type=click.IntRange(1), help="End with so many kinds of failure.")
@click.option("--first-seed", type=int, help="Where to begin (default: anywhere).")
def fuzz(
    target: str,
    given: dict[str, Any],
    policy: str,
    minutes: float,
    jobs: int | None,
    first_seed: int | None,
    kinds: int | None,
) -> None:
    """Run fresh seeds of TARGET for some minutes, and show each kind of failure once."""
    from trio_broker.testing.pytest_processes import fuzz_test, run_timed
    from trio_broker.testing.sim.fuzz import WorkerFailed, fresh_seed, fuzz

    jobs = jobs or os.cpu_count() or 1
    if first_seed is None:
        first_seed = fresh_seed()
    click.echo(f"seeds from {first_seed} on, {jobs} processes, {minutes:g} minutes", err=True)
    common: dict[str, Any] = {
        "seconds": minutes * 60,
        "jobs": jobs,
        "first_seed": first_seed,
        "kinds_max": kinds,
        "on_found": functools.partial(_show_found, target, policy),
        "on_progress": _show_progress if sys.stderr.isatty() else lambda _: None,
    }
    if _is_node(target):
        work = functools.partial(fuzz_test, target, **common)
    else:
        work = functools.partial(fuzz, target, policy=policy, **given, **common)
    try:
        fuzzed, seconds = run_timed(work)
    except WorkerFailed as error:
        click.echo(f"trio-broker sim fuzz: {error}", err=True)
        sys.exit(EXIT_FAILED)
    steps = (
        f" {fuzzed.steps:,} steps, {fuzzed.steps / seconds:,.0f} steps/s," if fuzzed.steps else ""
    )
    click.echo(f"{fuzzed.runs:,} seeds,{steps} {_kinds(fuzzed)}")
    for found in fuzzed.found.values():
        click.echo(f"  seed {found.seed} and {found.count - 1} more")
    if not fuzzed.runs:
        click.echo("trio-broker sim fuzz: no seed was finished: give it more --minutes", err=True)
    sys.exit(EXIT_FAILED if fuzzed.found or not fuzzed.runs else 0)


def _kinds(fuzzed: Fuzzed) -> str:
    count = len(fuzzed.found)
    return "1 kind of failure" if count == 1 else f"{count} kinds of failure"


def _show_progress(fuzzed: Fuzzed) -> None:
    click.echo(f"\r{fuzzed.runs:,} seeds, {_kinds(fuzzed)} ", nl=False, err=True)


def _show_found(target: str, policy: str, found: Found) -> None:
    click.echo(found.report)
    _show_how_to_repeat(target, found.seed, found.token, policy)


def _fail(target: str, failure: Failure, policy: str, token: str | None = None) -> None:
    click.echo(failure.report(with_traceback=True))
    _show_how_to_repeat(target, failure.result.seed, token or failure.token, policy)
    sys.exit(EXIT_FAILED)


def _show_how_to_repeat(target: str, seed: int, token: str | None, policy: str) -> None:
    if _is_node(target):
        return  # pytest has said it
    click.echo("repeat it:")
    if token is None:
        click.echo(f"  trio-broker sim run {target} --seed {seed} --policy {policy}")
    else:
        click.echo(f"  trio-broker sim replay {target} {token}")


def _run_test(node: str, *options: str) -> int:
    from trio_broker.testing.pytest_processes import run_test
    from trio_broker.testing.sim.fuzz import WorkerFailed

    if importlib.util.find_spec("pytest") is None:
        raise click.UsageError("pytest is not installed: pip install 'trio-broker[test]'")
    try:
        return run_test(node, options)
    except WorkerFailed as error:
        raise click.UsageError(str(error)) from None
