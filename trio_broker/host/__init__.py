"""Every contact with the machine: disk, network, wall clock, randomness, threads.

The rest of the package sees `interface` only; `real.real_host` makes the implementation that uses
system calls, and `trio_broker.testing.sim` one that simulates them. Imports nothing on its own.
"""
