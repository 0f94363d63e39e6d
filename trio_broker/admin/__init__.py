"""What operators look at: statistics, health and metrics, from values to text.

Pure: `broker.statistics` collects the values and `broker.http_server` serves the text. Nothing here
has a task, a clock, a socket or a view of the running broker.
"""
