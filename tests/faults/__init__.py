"""Faults of the machine, for real: killed processes, lost power, frozen disks, orderly stops."""
