"""Jobs of a shard that a stop need not wait for."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from trio_broker.broker.shard_jobs import GivenUp, in_turn, named, stoppable
from trio_broker.errors import StorageError, StuckIO
from trio_broker.host.jobs import run_inline

if TYPE_CHECKING:
    from trio_broker.host.interface import Job


class Calls:
    """Calls that are counted, and are over after some of them."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.made: list[str] = []

    def is_over(self) -> bool:
        return len(self.made) >= self.wanted

    def call(self, name: str, error: Exception | None = None) -> str:
        self.made.append(name)
        if error is not None:
            raise error
        return name

    def job(self, *names: str) -> Job[str]:
        """Make calls one after the other, and one more however that ends."""
        found = ""
        try:
            for name in names:
                found += yield self.call, (name,)
        except StorageError:
            yield self.call, ("cleanup",)
            raise
        return found


@pytest.mark.parametrize("wanted", range(5))
def test_a_job_ends_with_the_call_it_is_in(wanted: int) -> None:
    calls = Calls(wanted)
    job = stoppable(calls.job("a", "b", "c"), calls.is_over)
    if wanted >= 3:
        assert run_inline(job) == "abc"
    else:
        with pytest.raises(GivenUp):
            run_inline(job)
        assert calls.made == [*"abc"[:wanted], "cleanup"]


def test_a_failure_is_cleaned_up_although_all_is_over() -> None:
    """A call that was given up has come back; whoever opens the log next must know of it."""
    calls = Calls(1)

    def job() -> Job[None]:
        try:
            yield calls.call, ("sync", StuckIO("late"))
        except StuckIO:
            yield calls.call, ("note",)
            raise

    with pytest.raises(StuckIO):
        run_inline(stoppable(job(), calls.is_over))
    assert calls.made == ["sync", "note"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), ValueError("a bug"), None])
def test_one_job_that_fails_leaves_the_others_alone(error: Exception | None) -> None:
    calls = Calls(10)
    failures: list[Exception] = []

    def job(*arguments: Any) -> Job[None]:
        yield calls.call, arguments

    jobs = [named(job(*each), f"orders-{n}") for n, each in enumerate([("a",), ("b", error)])]
    run_inline(in_turn([*jobs, job("c")], failures, calls.is_over))
    assert calls.made == ["a", "b", "c"]
    assert [type(failure) for failure in failures] == (
        [] if error is None else [StorageError if isinstance(error, OSError) else ValueError]
    )
    assert error is None or isinstance(error, ValueError) or "orders-1" in str(failures[0])


def test_what_was_not_reached_in_time_is_said() -> None:
    calls = Calls(2)
    failures: list[Exception] = []

    def job(name: str) -> Job[None]:
        yield calls.call, (name,)

    with pytest.raises(StorageError, match="2 of 4 logs were not reached in time"):
        run_inline(in_turn([job(name) for name in "abcd"], failures, calls.is_over))
    assert calls.made == ["a", "b"]
    assert not failures
