"""Talking to a solver pool."""
