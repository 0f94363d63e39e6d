"""A simulation with brokers in it: what explored tests are given as `sim`.

The general part, `sim.run.Simulation`, knows nothing of brokers; this adds two methods to it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from trio_broker.testing.sim.run import Simulation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from trio_broker.config import BrokerConfig
    from trio_broker.testing.brokers import SimulatedBroker


class BrokerSimulation(Simulation):
    """A `Simulation` that brokers can run in."""

    def broker(
        self, config: BrokerConfig | None = None, *, name: str = "server", **options: Any
    ) -> AbstractAsyncContextManager[SimulatedBroker]:
        """Run a broker on a machine of this simulation for the length of a block::

            async with sim.broker() as server, open_client(
                "server:9092", host=sim.machine("laptop").host
            ) as client: ...

        Args:
            config: None: a plain one that listens on port 9092.
            name: of the machine, and its address.
            options: of `brokers.open_simulated_broker`, for example `faults`.
        """
        from trio_broker.testing.brokers import open_simulated_broker

        return open_simulated_broker(
            self, config, name=name, **{"internet": self.internet, **options}
        )

    @asynccontextmanager
    async def brokers(self, count: int, **options: Any) -> AsyncIterator[list[SimulatedBroker]]:
        """Run several brokers, each a cluster of its own, on server-0, server-1 and so on.

        Args:
            count: how many.
            options: of `broker`.
        """
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(self.broker(name=f"server-{number}", **options))
                for number in range(count)
            ]
