"""Tiny components with their sources and build recipes."""
