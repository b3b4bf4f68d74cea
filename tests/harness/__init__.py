"""What the end-to-end tests stand on: a containerd of their own, and the books they keep."""
