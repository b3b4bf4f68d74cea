"""Tests: unit/ mirrors the packages, contract/ and process/ use real peers, e2e/ a real containerd."""
