"""One file per API: what each request means. `table` says which are served, in which versions.

Handlers are coroutines `(state, session, version, request) -> response`. Expected failures are
error codes in the response, never exceptions. Produce and Fetch are on hot paths of their own and
work on the request's bytes.
"""
