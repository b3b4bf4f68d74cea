"""In-memory implementations of the seams; each stands beside a real one in e2e."""
