"""Counts the broker's tasks by the level of the tree that owns them.

Walks the real tree, below the broker's root task, rather than the broker's books: a task that the
books have forgotten is what one looks for. Tasks of an embedding program are not below that root.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    import trio

#: Tasks counted before the caller may let others run: less than a millisecond.
TASKS_PER_TURN = 1000

#: By the function that a task runs: the last two parts of its name.
OWNERS: Final = {
    "ShardReplicas._live": "replica",
    "ShardReplicas._revive": "replica",
    "ShardReplicas._reopen": "replica",
    "Shard.serve": "shard",
    "Shard._keep_house": "shard",
    "Supervisor.keep_running": "log-dir",
    "RealLane.serve": "lane",
    "SimLane.serve": "lane",
    "ReplicaWork._run": "controller",
    "MadeReplicas._tell": "controller",
    "listeners._serve_client": "connection",
    "listeners.serve_stream": "connection",
    "Supervisor.absorb": "connection",
    "listeners.accept_forever": "listener",
    "HttpServer.accept_forever": "http",
    "HttpServer._serve": "http",
}
#: Everything else: the root and what it does for the broker as a whole.
REST: Final = "broker"


@lru_cache(maxsize=256)
def _owner_of(task_name: str) -> str:
    return OWNERS.get(".".join(task_name.rsplit(".", 2)[-2:]), REST)


def count_tasks(root: trio.lowlevel.Task | None) -> Generator[None, None, dict[str, int]]:
    """Count the tasks that each kind of owner has, below and with `root`; yields now and then.

    Of what starts and ends while others run in between, some is counted and some is not.
    """
    names: Counter[str] = Counter()
    waiting = [] if root is None else [root]
    counted = 0
    while waiting:
        task = waiting.pop()
        names[task.name] += 1
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
        counted += 1
        if counted % TASKS_PER_TURN == 0:
            yield
    counts: Counter[str] = Counter()
    for name, count in names.items():
        counts[_owner_of(name)] += count
    return dict(counts)
