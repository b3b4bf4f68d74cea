"""Installing on a node: where its containerd is, what is written there, and how all of it is undone."""
