"""Clients that use a simulated broker, troubles that befall it, and the phases of such a run.

| module | what it does |
|---|---|
| `world` | puts a run together: clients and troubles, then calm, then a look at everything |
| `caller` | a connection that is opened again when it breaks |
| `producing` | an idempotent producer, resending what was not answered, and careless ones |
| `consuming` | consumers with long polls, over the network and in the process |
| `committing` | commits offsets of a group and finds them again |
| `topics` | creates and deletes topics |
| `troubles` | stops, crashes, disks and networks that fail |

Each client tells `trio_broker.testing.model` what it learns.
"""
