"""The local web app: the library's results in a browser, on this machine alone (extra `[web]`).

Knows results, the store and the public functions that make results; no hooks, no insides of models. It serves models
that were named when it was started, never maps what it is sent to a path, and fetches nothing.
"""
