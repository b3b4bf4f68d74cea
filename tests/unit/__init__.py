"""Unit tests: one file per module, no processes, no network."""
