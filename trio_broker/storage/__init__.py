"""A replica's log on disk: segments, indexes, recovery, retention, and the log dir that holds them.

Taskless. State changes only on the event loop, disk work only in jobs (see `host.interface`).
"""
