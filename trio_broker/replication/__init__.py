"""What a replica must remember and compute: producer state, leader epochs, high watermark.

Pure: no Trio, no clock, no I/O; time comes in as an argument.
"""
