"""Tests that touch nothing outside their own process and temp folder."""
