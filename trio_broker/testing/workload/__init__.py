"""Clients that use a simulated broker, troubles that befall it, and the phases of such a run.

| module | what it does |
|---|---|
| `world` | puts a run together: clients and troubles, then calm, then a look at everything |
| `caller` | a connection that is opened again when it breaks |
| `producing` | an idempotent producer, resending what was not answered, and careless ones |
| `consuming` | consumers with long polls, over the network and in the process |
| `committing` | commits offsets of a group and finds them again |
| `members` | members of one group, which come and go |
| `trimming` | deletes the oldest records |
| `topics` | creates and deletes topics |
| `altering` | an operator who alters topics: configuration and partitions |
| `containment` | clients of what is beside a fault |
| `operating` | what an operator does after a failed fsync |
| `troubles` | stops, crashes, disks, networks and clocks that fail |
| `sometimes` | rare things that must happen in some runs |

Each client tells `trio_broker.testing.model` what it learns.
"""
