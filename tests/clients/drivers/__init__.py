"""One file per client, all with the interface of `tests.clients.drivers.interface`."""
