"""Fuzzing: conversations and bytes that nobody sends in good faith (faults.md 6.6)."""
