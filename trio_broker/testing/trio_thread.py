"""A thread with a Trio run of its own, in which other threads have calls carried out.

Unlike `trio.from_thread` it may be used from any thread, also from one that runs Trio itself or
asyncio: the caller blocks until its call has ended. However the run ends, nobody is left waiting,
and what it ended with is raised wherever somebody asks for it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import outcome
import trio

from trio_broker.broker.supervise import first_cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class _Call:
    """One call of another thread, and where its outcome goes."""

    __slots__ = ("args", "function", "is_done", "outcome")

    def __init__(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        self.function = function
        self.args = args
        self.outcome: outcome.Outcome[Any] | None = None
        self.is_done = threading.Event()


class TrioThread:
    """The thread; `start` begins its run, `finish` ends it.

    Attributes:
        name: of the thread, for listings.
        nursery: for tasks that live as long as the run; they end it with what they raise.
    """

    nursery: trio.Nursery

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._process = os.getpid()
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._pending: dict[_Call, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._has_ended = False
        self._end: BaseException | None = None

    def __repr__(self) -> str:
        return f"<TrioThread {self.name} {'runs' if self.is_running else 'does not run'}>"

    @property
    def is_running(self) -> bool:
        """Whether its run has begun and not ended."""
        return self._thread.is_alive() and not self._has_ended

    def start(self) -> None:
        """Start the thread; returns when calls can be made.

        Raises:
            BaseException: what the run ended with, if it has ended already.
        """
        self._thread.start()
        self._ready.wait()
        if self._has_ended:
            self._raise_end()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run ``await function(*args)`` there; return its result, or raise what it raises.

        Raises:
            RuntimeError: from its own thread, which would wait for ever, or from a forked process,
                which does not have the thread.
            BaseException: what the run ended with, if it has ended, or ends before the call does.
        """
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(f"{self.name}: this call would wait for its own thread")
        if os.getpid() != self._process:
            raise RuntimeError(f"{self.name} runs in process {self._process}, not in this one")
        call = _Call(function, args)
        with self._lock:
            if self._send(self._begin, call):
                self._pending[call] = None
            else:
                call.is_done.set()
        call.is_done.wait()
        if call.outcome is None:
            self._thread.join()
            self._raise_end()
        result: T = call.outcome.unwrap()
        return result

    def call_sync(self, function: Callable[..., T], *args: object) -> T:
        """Call ``function(*args)`` there; else as `call`."""

        async def in_thread() -> T:
            await trio.lowlevel.checkpoint()
            return function(*args)

        return self.call(in_thread)

    def finish(self, seconds_max: float) -> None:
        """Cancel what still runs there, and wait for the end of the thread.

        Raises:
            RuntimeError: it has not ended within that time.
            BaseException: what the run ended with.
        """
        with self._lock:
            self._send(self._cancel)
        self._thread.join(seconds_max)
        if self._thread.is_alive():
            raise RuntimeError(f"{self.name} has not ended within {seconds_max:g} s")
        if self._end is not None:
            raise self._end

    def _send(self, function: Callable[..., object], *args: object) -> bool:
        """Have a function called in the run, if that has not ended; the lock is held."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True

    # The thread's side.

    def _work(self) -> None:
        result = outcome.capture(trio.run, self._main)
        with self._lock:
            if isinstance(result, outcome.Error):
                self._end = first_cause(result.error)
            self._has_ended = True
            self._token = None
            pending, self._pending = self._pending, {}
        self._ready.set()
        for call in pending:
            call.is_done.set()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()

    def _cancel(self) -> None:
        self.nursery.cancel_scope.cancel()

    def _begin(self, call: _Call) -> None:
        # Once the run is ending, its nursery takes no more; the end of the thread tells the caller.
        if not self.nursery.cancel_scope.cancel_called:
            self.nursery.start_soon(self._perform, call)

    async def _perform(self, call: _Call) -> None:
        result = await outcome.acapture(call.function, *call.args)
        if isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled):
            result.unwrap()
        with self._lock:
            del self._pending[call]
        call.outcome = result
        call.is_done.set()

    def _raise_end(self) -> NoReturn:
        raise self._end or RuntimeError(f"{self.name} has ended: its `with` block was left")
