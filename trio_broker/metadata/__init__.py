"""Cluster metadata as a state machine without I/O: records, image, placement, decisions.

Pure: no Trio, no clock, no randomness, no files. `trio_broker.cluster` stores what is decided here
and `trio_broker.broker.controller` carries it out.
"""
