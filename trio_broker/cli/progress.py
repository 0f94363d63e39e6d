"""Progress of a long step: a bar where stderr is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a step of `total` parts; yield a function that is told how many more are done.

    Honours NO_COLOR through rich, and writes to stderr only.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        # Drawn when there is something new: a refresh of its own would need a thread.
        with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
            task = bars.add_task(title, total=total)

            def advance(count: int) -> None:
                bars.advance(task, count)
                bars.refresh()

            yield advance
        return
    print(f"{title} ...", file=sys.stderr, flush=True)
    yield lambda _count: None
