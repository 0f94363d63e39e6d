"""What an operator does after a failed fsync, as the operations guide says.

Most faults heal by themselves. A metadata store whose fsync failed commits nothing more until the
broker is started again; and where acknowledgements do not wait for fsync, a partition waits for
somebody who accepts that some of what it acknowledged is lost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.cluster.embedded import EmbeddedStore
from trio_broker.config import Durability
from trio_broker.storage import paths
from trio_broker.testing.model import Violation

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.testing.brokers import Life, SimulatedBroker
    from trio_broker.testing.workload.world import World

#: After trouble is over everything has to work within this.
LIVENESS_SECONDS = 30.0
_LOOK_SECONDS = 0.25


def offline_replicas(server: SimulatedBroker) -> list[Replica]:
    """Return the replicas that refuse requests; the broker must serve."""
    life = server.serving
    assert life is not None
    return [replica for replica in life.state.router.replicas() if replica.refusal]


async def operate(world: World) -> None:
    """Wait for what heals by itself; then restart, and accept what is lost, if that is needed.

    Raises:
        Violation: a partition stays offline that nobody has to be asked about.
    """
    server = world.server
    for accepts_loss in (False, True):
        deadline = trio.current_time() + LIVENESS_SECONDS
        while offline_replicas(server) and trio.current_time() < deadline:  # noqa: ASYNC110
            await trio.sleep(_LOOK_SECONDS)
        offline = offline_replicas(server)
        life = server.serving
        if life is None or not (offline or _metadata_failed(life)):
            return
        for replica in offline:
            if _waited_for_fsync(world, replica):
                raise Violation(f"I10 {replica!r} stays offline: {replica.cause}")
        await world.stop()
        server.new_process()
        if accepts_loss:
            for replica in offline:
                name = paths.replica_name(replica.topic_partition)
                log_dir = replica.shard.log_dir.directory.path
                touch(server, f"{log_dir}/{name}/{paths.ACCEPT_LOSS_NAME}")
        await world.start()


def _waited_for_fsync(world: World, replica: Replica) -> bool:
    """Whether every acknowledgement that counts has waited for fsync, so that none may be lost."""
    topic = world.model.by_id.get(replica.topic_partition.topic_id)
    is_fsync = replica.topic.durability is Durability.FSYNC
    return is_fsync and (topic is None or topic.durability is Durability.FSYNC)


def _metadata_failed(life: Life) -> bool:
    store = life.state.controller._store
    return isinstance(store, EmbeddedStore) and bool(store.statistics().failure)


def touch(server: SimulatedBroker, path: str) -> None:
    """Make an empty file, beside the broker and without any time passing."""
    opened = server.fs.step(partial(server.fs.open, create=True), (path, "operator"))
    opened.close()  # type: ignore[attr-defined] # it is a file
