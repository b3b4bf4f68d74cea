"""A Spin container: from image to plan to bundle (`prepare`), through the OCI runtime, to its exit."""
