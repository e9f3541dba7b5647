"""Verbs: what a user asks for. Each takes sinks and plain options, emits events, returns a result.

A verb prints nothing, reads no environment and knows no cluster.
"""
