"""OCI registries: `reference` and `challenge` are pure; `client` speaks HTTP and checks every byte."""
