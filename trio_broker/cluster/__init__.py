"""Metadata stores: where the cluster's key-value truth is kept.

`store` says what a store promises, `embedded` keeps one in a folder of this broker, `identity`
checks that the folder belongs to this broker. No tasks: who opens a store runs its lane.
"""
