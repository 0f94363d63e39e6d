"""Progress of a long step: a bar where stderr is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What is done sooner needs no bar.
LONG_SECONDS = 1.0
#: Drawing takes a millisecond, and nobody sees more than ten bars a second.
DRAWN_SECONDS = 0.1


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a step of `total` parts; yield a function that is told how many more are done.

    Honours NO_COLOR through rich, and writes to stderr only.
    """
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
        return
    print(f"{title} ...", file=sys.stderr, flush=True)
    yield lambda _count: None


@contextmanager
def long_work(
    title: str, total: int | None, *, writes_stdout: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar once a step has taken a second, if that disturbs nobody: see `progress`.

    There is none unless stderr is a terminal.

    Args:
        title: what is being done.
        total: how many parts there are; None: nobody knows, and there is no bar.
        writes_stdout: whether data goes to stdout meanwhile, which then must be no terminal.
    """
    disturbs = writes_stdout and sys.stdout.isatty()
    if total is None or disturbs or not sys.stderr.isatty():
        yield lambda _count: None
        return
    import trio

    started = trio.current_time()
    so_far = 0
    advance: Callable[[int], None] | None = None
    with ExitStack() as stack:

        def done(count: int) -> None:
            nonlocal so_far, advance
            so_far += count
            if advance is not None:
                advance(count)
            elif trio.current_time() - started > LONG_SECONDS:
                advance = stack.enter_context(_bar(title, total))
                advance(so_far)

        yield done


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    # Drawn when there is something new: a refresh of its own would need a thread.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        task = bars.add_task(title, total=total)
        drawn_at = 0.0

        def advance(count: int) -> None:
            nonlocal drawn_at
            bars.advance(task, count)
            now = bars.get_time()
            if now - drawn_at >= DRAWN_SECONDS:
                bars.refresh()
                drawn_at = now

        yield advance
