"""A content-addressed cache of ahead-of-time compiled code, shared by every process of a node.

Knows nothing of the shim: it raises its own few exceptions, and is handed the compiler as a function.
"""
