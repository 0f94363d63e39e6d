"""A Kafka client for Trio programs: structured, and without tasks of its own.

Whoever calls decides what runs at the same time. Speaks the protocol through `wire` and `records`
to any Kafka broker, this one included.
"""
