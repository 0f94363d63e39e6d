"""The group coordinator as a state machine: decides in records, is rebuilt by replaying them.

Pure: no Trio, no clock, no I/O; time comes in as an argument.
"""
