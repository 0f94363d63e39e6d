"""The task tree: every nursery and every task of the broker, one file per level.

Who wants to know what runs reads this folder. `broker` is the root; `log_dir`, `shard` and
`replica` hold the data; `listeners` and `connection` the clients; `handlers` one file per API;
`supervise` is the only place where errors stop.
"""
