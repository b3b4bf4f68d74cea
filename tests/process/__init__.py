"""Real sockets and processes, without containerd."""
