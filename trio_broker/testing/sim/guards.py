"""What simulated code must not touch, because no seed can repeat it: found where it is touched.

Forbidden while a simulation runs, on its thread: real files, sockets, processes and threads, the
machine's clocks (`time`, and in a strict run `datetime` too) and randomness that no seed decides
(the module `random`, unseeded generators, `os.urandom`, `uuid`, `secrets`). The error is raised in
the code that does it, and again as the result of the run if that code swallowed it.

Three nets. Python's audit events catch everything that touches the machine, however it is called.
Functions of modules are replaced, which misses ``from time import time``. A *strict* run looks at
every call of a function written in C, misses nothing, and takes a few times longer.

Let through: what imports, tracebacks and logging do, and what modules do that the caller names.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from trio_broker.testing.sim import private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class OutsideSimulation(AssertionError):
    """Simulated code used something that no seed can repeat. Base of the errors of this module."""

    #: What there is for it in a simulation.
    instead: ClassVar[str] = ""


class RealIOInSimulation(OutsideSimulation):
    """Simulated code touched a real file, socket or process."""

    instead = "take a machine of `sim.machine(name)`, which has a disk and a network"


class RealThreadInSimulation(OutsideSimulation):
    """Simulated code started a thread, whose timing no seed can repeat."""

    instead = "take a task, and lanes of a machine for what takes time"


class RealClockInSimulation(OutsideSimulation):
    """Simulated code read a clock of the machine, or slept by it."""

    instead = "take `trio.current_time()`, `trio.sleep()`, or a machine's `wall`"


class RealRandomInSimulation(OutsideSimulation):
    """Simulated code drew from randomness that does not follow from the seed."""

    instead = "take `sim.random(name)`"


#: Modules (and those below them) that may do all of this: for people, not for the program.
ALLOWED_MODULES = frozenset(
    {
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_pytest",
        "coverage",
        "encodings",
        "faulthandler",
        "importlib",
        "inspect",
        "linecache",
        "logging",
        "pkgutil",
        "pluggy",
        "pytest_timeout",
        "tokenize",
        "traceback",
        "warnings",
        "zipimport",
        "zoneinfo",
    }
)
_IMPORTING = frozenset({"_frozen_importlib", "importlib._bootstrap"})

_IO_EVENTS = frozenset({"open", "socket.__new__", "subprocess.Popen", "mmap.__new__"})
_IO_PREFIXES = ("socket.", "shutil.", "tempfile.", "sqlite3.connect", "fcntl.")
# Reading a file's name or status is left alone: no audit event tells of it.
# fmt: off
_OS_EVENTS = frozenset({
    "os.chdir", "os.chflags", "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty",
    "os.kill", "os.killpg", "os.link", "os.listdir", "os.lockf", "os.mkdir", "os.posix_spawn",
    "os.putenv", "os.remove", "os.removexattr", "os.rename", "os.rmdir", "os.scandir",
    "os.setxattr", "os.spawn", "os.symlink", "os.system", "os.truncate", "os.unsetenv", "os.utime",
})
# fmt: on
_THREAD_EVENTS = frozenset({"_thread.start_new_thread", "_thread.start_joinable_thread"})
_CLOCKS = (
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "time",
    "time_ns",
)
_CLOCK_CALLS = frozenset(
    getattr(time, name) for name in (*_CLOCKS, "process_time", "process_time_ns", "thread_time")
)
_DATETIME_CALLS = frozenset({"now", "today", "utcnow"})
_RANDOM_CALLS = frozenset({os.urandom, *([os.getrandom] if hasattr(os, "getrandom") else [])})
# The generator behind the functions of the module `random`.
_GLOBAL_RANDOM = random.shuffle.__self__  # type: ignore[attr-defined]


class Guard:
    """Watches one run.

    Attributes:
        violation: the first thing that was touched and should not.
    """

    def __init__(self, allowed: frozenset[str] = frozenset()) -> None:
        """Make a guard.

        Args:
            allowed: names of modules that may do what is forbidden, beside `ALLOWED_MODULES`.
        """
        self.violation: OutsideSimulation | None = None
        self._allowed = allowed | ALLOWED_MODULES
        self._thread = threading.get_ident()

    def is_here(self) -> bool:
        """Return whether this is the thread that the guard watches."""
        return threading.get_ident() == self._thread

    def object_to(self, kind: type[OutsideSimulation], what: str, frame: FrameType) -> None:
        """Raise, unless the code in `frame` may do it.

        Raises:
            OutsideSimulation: it may not.
        """
        __tracebackhide__ = True  # pytest begins with the code that did it
        user = self._first_user(frame)
        if user is None:
            return
        file = os.path.basename(user.f_code.co_filename)
        place = f"{user.f_code.co_name} ({file}:{user.f_lineno})"
        error = kind(f"{what} in a simulation, by {place}; {kind.instead}")
        if self.violation is None:
            self.violation = error
        raise error

    def _first_user(self, frame: FrameType) -> FrameType | None:
        """Return who is to blame, outside of the standard library; None if it is allowed."""
        at: FrameType | None = frame
        while at is not None:
            module = str(at.f_globals.get("__name__", ""))
            if self._is_allowed(module):
                return None
            is_own = at.f_code.co_filename == __file__  # a stand-in that has let somebody through
            if not is_own and module.partition(".")[0] not in sys.stdlib_module_names:
                break
            at = at.f_back
        user = at or frame
        # What the body of a module does that is just being imported.
        while at is not None:
            if at.f_globals.get("__name__") in _IMPORTING:
                return None
            at = at.f_back
        return user

    def _is_allowed(self, module: str) -> bool:
        while module:
            if module in self._allowed:
                return True
            module = module.rpartition(".")[0]
        return False

    # -------------------------------------------------------------------------- the three nets

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Look at an audit event of Python's; called by the hook."""
        __tracebackhide__ = True
        kind: type[OutsideSimulation]
        if event in _IO_EVENTS or event in _OS_EVENTS or event.startswith(_IO_PREFIXES):
            kind, what = RealIOInSimulation, f"{event}{args!r}"
        elif event in _THREAD_EVENTS:
            kind, what = RealThreadInSimulation, "a real thread"
        elif event == "time.sleep":
            kind, what = RealClockInSimulation, f"time.sleep{args!r}"
        else:
            return
        self.object_to(kind, what, sys._getframe(2))

    def forbidding(
        self, kind: type[OutsideSimulation], what: str, allowed: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return what to put in the place of a function of the machine."""

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if self.is_here():
                self.object_to(kind, what, sys._getframe(1))
            return allowed(*args, **kwargs)

        return stand_in

    def profile(self, frame: FrameType, event: str, called: Any) -> None:
        """Look at one call, as `sys.setprofile` shows it; `frame` is the caller's."""
        __tracebackhide__ = True
        if event != "c_call":
            return
        try:
            is_clock, is_random = called in _CLOCK_CALLS, called in _RANDOM_CALLS
        except TypeError:
            return  # a method of something that cannot be hashed
        owner = getattr(called, "__self__", None)
        if isinstance(owner, type):
            is_clock = called.__name__ in _DATETIME_CALLS and issubclass(owner, dt.date)
        if is_clock:
            self.object_to(RealClockInSimulation, f"{called.__qualname__}()", frame)
        elif is_random or owner is _GLOBAL_RANDOM:
            self.object_to(RealRandomInSimulation, f"{called.__qualname__}()", frame)


_guards: dict[int, Guard] = {}


@cache
def _install_audit_hook() -> None:
    """Install the one hook of this process; it cannot be removed, only have nothing to do."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        __tracebackhide__ = True
        if _guards and (guard := _guards.get(threading.get_ident())) is not None:
            guard.audit(event, args)

    sys.addaudithook(hook)


@contextmanager
def guarded(guard: Guard, *, strict: bool) -> Iterator[None]:
    """Let a guard watch this thread until the block ends.

    Args:
        guard: that one.
        strict: look at every call of a C function, too.
    """
    _install_audit_hook()
    thread = threading.get_ident()
    with ExitStack() as stack:
        for owner, name, value in _stand_ins(guard):
            stack.enter_context(private.replaced(owner, name, value))
        _guards[thread] = guard
        stack.callback(_guards.pop, thread)
        if strict and sys.getprofile() is None:
            sys.setprofile(guard.profile)
            stack.callback(sys.setprofile, None)
        yield


def _stand_ins(guard: Guard) -> Iterator[tuple[object, str, object]]:
    """Yield what is replaced while a simulation runs: (owner, name, what takes its place)."""
    for name in _CLOCKS:
        clock = getattr(time, name)
        yield time, name, guard.forbidding(RealClockInSimulation, f"time.{name}()", clock)
    kind = RealRandomInSimulation
    for owner, label, names in (
        (_GLOBAL_RANDOM, "random", ("random", "getrandbits", "_randbelow")),
        (random, "random", ("random", "getrandbits")),
        (random, "SystemRandom", ("_urandom",)),
        (os, "os", ("urandom", "getrandom")),
    ):
        for name in names:
            if hasattr(owner, name):
                what = f"{label}.{name}()" if name[0] != "_" else f"a draw from {label}"
                yield owner, name, guard.forbidding(kind, what, getattr(owner, name))

    seed = random.Random.seed

    def seed_with_something(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and guard.is_here():
            guard.object_to(kind, "a random generator without a seed", sys._getframe(1))
        seed(self, a, version)

    yield random.Random, "seed", seed_with_something
    # Trio may have an idle thread to reuse; and before Python 3.12 no audit event tells of a start.
    for owner, name in (private.THREAD_START, (threading.Thread, "start")):
        allowed = getattr(owner, name)
        yield owner, name, guard.forbidding(RealThreadInSimulation, "a real thread", allowed)
