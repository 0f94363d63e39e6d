"""Every private name of Trio that the simulator uses. No other file may touch one.

Trio has no public way to choose which runnable task goes next, to order cancellations, or to look
at the run queue (python-trio/trio issues 239 and 3371). This file does it from outside, for the
thread that simulates only: a Trio run that another thread starts meanwhile keeps its ordinary
scheduler. `check_names` fails with "unsupported trio version" where a name is gone;
`run.simulate` adds a self-test of what the names do.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import outcome
import trio
from trio._core import _run, _thread_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from trio.lowlevel import Task

_MISSING = object()
_IN_USE = threading.Lock()
_CLOSES_MAX = 100
_COLLECTIONS = 3


class UnsupportedTrio(RuntimeError):
    """This version of Trio does not work inside as the simulator needs it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"unsupported trio version {trio.__version__}: {reason}")


#: Where Trio starts its worker threads, for those who forbid it: (class, name of the method).
THREAD_START = (_thread_cache.ThreadCache, "start_thread_soon")


def check_names() -> None:
    """Raise UnsupportedTrio if a private name that this file uses is missing."""
    wanted: tuple[tuple[object, str], ...] = (
        (_run, "_r"),
        (_run, "_ALLOW_DETERMINISTIC_SCHEDULING"),
        (_run, "GLOBAL_RUN_CONTEXT"),
        (_run, "CancelStatus"),
        (_run, "Deadlines"),
        (_run, "Runner"),
        (trio.run, "__code__"),
        (_run.CancelStatus, "__attrs_post_init__"),
        (_run.CancelStatus, "_children"),
        (_run.CancelStatus, "_tasks"),
        (_run.Task, "_counter"),
        (_run.Task, "_cancel_status"),
        (_thread_cache.ThreadCache, "start_thread_soon"),
    )
    for owner, name in wanted:
        if not hasattr(owner, name):
            raise UnsupportedTrio(f"{name} is gone")


def is_woken_from_outside() -> bool:
    """Return whether another thread or a signal has something for the running loop."""
    return _run.GLOBAL_RUN_CONTEXT.runner.entry_queue.size() > 0


def is_idle_awaited() -> bool:
    """Return whether a task is in `trio.testing.wait_all_tasks_blocked`."""
    return bool(_run.GLOBAL_RUN_CONTEXT.runner.waiting_for_idle)


def all_tasks() -> list[Task]:
    """Return the tasks of the running loop in order of creation."""
    return sorted(_run.GLOBAL_RUN_CONTEXT.runner.tasks, key=lambda task: task._counter)


def requeue(tasks: list[Task]) -> None:
    """Let tasks that were taken out of a batch run again."""
    _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(tasks)


def threads_with_loops() -> tuple[str, ...]:
    """Return the names of other threads of this process in which Trio runs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    found = []
    for ident, frame in sys._current_frames().items():
        at: FrameType | None = frame
        while ident != own and at is not None:
            if at.f_code is trio.run.__code__:
                found.append(names.get(ident, f"thread {ident}"))
                break
            at = at.f_back
    return tuple(sorted(found))


def remove_shields() -> None:
    """Let cancellation reach every task of the running loop, whatever it is shielded by."""
    for task in all_tasks():
        status: _run.CancelStatus | None = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status._parent


def abandon(tasks: list[Task]) -> None:
    """Let go of the tasks of a loop that was torn down, without their last words.

    Empties `tasks`, which must be the last thing that refers to them.
    """
    hook = sys.unraisablehook
    # Cancel scopes, nurseries and async generators complain that they end outside of a run, or
    # in the wrong order; that is just the case.
    sys.unraisablehook = lambda _: None
    try:
        while tasks:
            _close(tasks.pop())
        for _ in range(_COLLECTIONS):
            gc.collect()  # what async generators hold goes only after they have tried to end
    finally:
        sys.unraisablehook = hook


def _close(task: Task) -> None:
    for nursery in task.child_nurseries:
        nursery._children.clear()
    for _ in range(_CLOSES_MAX):
        # Each close ends one ``finally`` that awaits.
        if isinstance(outcome.capture(task.coro.close), outcome.Value):
            return


class _OrderedSet(dict[Any, None]):
    """As much of a set as `CancelStatus` uses, but iterated in order of insertion."""

    def add(self, item: object) -> None:
        self[item] = None

    def remove(self, item: object) -> None:
        del self[item]

    def discard(self, item: object) -> None:
        self.pop(item, None)


class _OrderedCancelStatus(_run.CancelStatus):
    """Cancels its tasks in order of arrival, where Trio goes by their addresses in memory."""

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        self._children = _OrderedSet()  # type: ignore[assignment]
        self._tasks = _OrderedSet()  # type: ignore[assignment]
        super().__attrs_post_init__()


class _SchedulerHook(random.Random):
    """Stands where Trio keeps its random generator; asked to shuffle each batch of tasks."""

    def __init__(self, arrange: Callable[[list[Task]], None]) -> None:
        super().__init__()
        self._arrange = arrange
        self._thread = threading.get_ident()

    def shuffle(self, x: Any) -> None:
        """Order a batch; Trio runs it from the end."""
        if threading.get_ident() != self._thread:
            super().shuffle(x)
        else:
            self._arrange(x)


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Give an attribute of a module or class another value until the block ends."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def deterministic(arrange: Callable[[list[Task]], None]) -> Iterator[None]:
    """Make Trio runs on this thread repeatable until the block ends.

    Args:
        arrange: puts each batch of runnable tasks (given in order of creation) into the order in
            which they shall run, last one first; it may take tasks out and `requeue` them later.

    Raises:
        RuntimeError: another simulation is running in this process.
    """
    if not _IN_USE.acquire(blocking=False):
        raise RuntimeError("another simulation is running in this process")
    numbers = count()
    try:
        with ExitStack() as stack:
            for owner, name, value in (
                (_run, "_r", _SchedulerHook(arrange)),
                (_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
                # Trio breaks ties of equal deadlines by id(); this one counts instead.
                (_run, "id", lambda _: next(numbers)),
                (_run, "CancelStatus", _OrderedCancelStatus),
            ):
                stack.enter_context(replaced(owner, name, value))
            yield
    finally:
        _IN_USE.release()
