"""Deterministic simulation of Trio programs: time, scheduling, disk, lanes, network.

General: it knows `trio_broker.host.interface`, `errors` and `names`, and nothing else of the
package. One seed decides everything, so a failing run can be repeated exactly.

| module | what it simulates or does |
|---|---|
| `run` | `simulate(main, seed)`: one deterministic run and its `Result` |
| `clock` | virtual time that jumps exactly, proven deadlocks |
| `scheduler` | which runnable task goes next: random, first-in-first-out, fair PCT |
| `streams` | named random streams, each seeded from (seed, name) |
| `trace` | hash of everything that happened, first difference of two runs |
| `faults` | what may go wrong, by rate or at a chosen operation |
| `disk` | a filesystem whose power can fail |
| `lane` | disk jobs, step by step on the event loop |
| `network` | connections with latency, fragmentation, partitions, resets |
| `host` | all of it together as one machine |
| `private` | every private name of Trio in use, with a self-test |

Importing this package loads none of them.
"""
