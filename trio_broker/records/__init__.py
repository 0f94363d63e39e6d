"""RecordBatch v2 as bytes: header, validation, offset stamping, building, iteration, codecs.

Pure: no Trio, no clock, no I/O.
"""
