"""Tests over a real containerd that they start themselves; they need root."""
