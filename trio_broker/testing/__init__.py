"""The public test kit: a simulated machine, and (with the broker) simulated brokers.

This package may open nurseries and start tasks. Importing it loads nothing; import what you need
from its modules, for example ``from trio_broker.testing.sim.run import simulate``.
"""
