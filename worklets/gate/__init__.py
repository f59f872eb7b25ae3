"""The gate: Flow's door on another machine's engine.

These modules are sent to its container as they are, so they use the standard library and one another, nothing else.
"""
