"""The command line: turns arguments into configuration, and results into text.

Data goes to stdout, everything else to stderr. Nothing of the package imports this folder, and
this folder holds no logic of the broker.
"""
