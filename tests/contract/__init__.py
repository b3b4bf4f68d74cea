"""Suites that run against real peers and over every implementation of a seam."""
