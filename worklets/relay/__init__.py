"""What runs inside a worklet beside Claude: the relay. Standard library and `websockets` only.

The image copies this folder as it is and starts `python -I relay.py <run_dir>`; so the files here import
each other by their bare names, and nothing of the rest of the project. Flow itself uses `journal`, `proof` and
`relay.hide`.
"""
