"""Counts the broker's tasks by the level of the tree that owns them.

Walks the real tree, below the broker's root task, rather than the broker's books: a task that the
books have forgotten is what one looks for. Tasks of an embedding program are not below that root.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import trio

#: By the function that a task runs: the last two parts of its name.
OWNERS: Final = {
    "Shard._live": "replica",
    "Shard._revive": "replica",
    "Shard._reopen": "replica",
    "Shard.serve": "shard",
    "Shard._keep_house": "shard",
    "Supervisor.keep_running": "log-dir",
    "RealLane.serve": "lane",
    "SimLane.serve": "lane",
    "ReplicaWork._run": "controller",
    "listeners._serve_client": "connection",
    "listeners.serve_stream": "connection",
    "Supervisor.absorb": "connection",
    "listeners.accept_forever": "listener",
    "HttpServer.accept_forever": "http",
    "HttpServer._serve": "http",
}
#: Everything else: the root and what it does for the broker as a whole.
REST: Final = "broker"


def count_tasks(root: trio.lowlevel.Task | None) -> dict[str, int]:
    """Return how many tasks each kind of owner has, below and with `root`.

    Some microseconds for ten tasks.
    """
    counts: Counter[str] = Counter()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        counts[OWNERS.get(".".join(task.name.rsplit(".", 2)[-2:]), REST)] += 1
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
    return dict(counts)
