"""The task service: `state` says what may happen, `container` does it, `service` speaks containerd's API."""
