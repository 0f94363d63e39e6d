"""Where the client's tasks run: the one file of `client/` that opens a nursery and starts tasks.

Every task of a client, its producers and its consumers is started here, in one nursery: the
caller's, or one that is opened for the length of `open_client`. What the tasks do is written in
the other files, which start nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Cancelled tasks close their connections and end; none of them waits for anybody.
END_SECONDS_MAX = 5.0


class Task:
    """A task of the client."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.is_set()

    def cancel(self) -> None:
        """Tell it to end."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Be the task."""
        try:
            with self._scope:
                await function()
        finally:
            self._ended.set()


class TaskScope:
    """Starts tasks in a nursery, and ends those it has started."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._tasks: dict[Task, None] = {}

    def child(self) -> TaskScope:
        """Return a scope in the same nursery, to end some of the tasks together."""
        return TaskScope(self._nursery)

    def start(self, name: str, function: Callable[[], Awaitable[None]]) -> Task:
        """Start a task.

        Args:
            name: for task listings.
            function: what it does; what it raises ends the nursery.
        """
        task = Task()
        self._tasks[task] = None
        self._nursery.start_soon(self._run, task, function, name=f"trio_broker/client/{name}")
        return task

    async def _run(self, task: Task, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await task.run(function)
        finally:
            del self._tasks[task]

    def cancel(self) -> None:
        """Tell every task to end."""
        for task in list(self._tasks):
            task.cancel()

    async def end(self) -> None:
        """End every task, and wait until they have ended."""
        self.cancel()
        for task in list(self._tasks):
            await task.wait()


@asynccontextmanager
async def open_scope(nursery: trio.Nursery | None) -> AsyncIterator[TaskScope]:
    """Make a place for tasks; leaving the block ends them.

    Args:
        nursery: where they run; None: in a nursery of the block's own.

    Raises:
        BaseException: whatever the block raises, as it is; else what a task raised, bare if it
            was one exception only. Nobody meets a group for a single error.
    """
    if nursery is not None:
        scope = TaskScope(nursery)
        try:
            yield scope
        finally:
            with trio.CancelScope(deadline=trio.current_time() + END_SECONDS_MAX, shield=True):
                await scope.end()
        return
    raised: BaseException | None = None
    outcome: BaseException
    try:
        async with trio.open_nursery() as own:
            try:
                yield TaskScope(own)
            except BaseException as error:
                raised = error
                raise
            finally:
                own.cancel_scope.cancel()
        return
    except BaseExceptionGroup as group:
        outcome = group
        if raised is not None and any(raised is error for error in group.exceptions):
            outcome = raised
        elif len(group.exceptions) == 1:
            outcome = group.exceptions[0]
        if outcome is group:
            raise
    # Here, and not in the handler, where Python would write the group into its context.
    raise outcome
