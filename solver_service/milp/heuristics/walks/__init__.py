"""Exact line searches: walks that keep constraints, for counts and for ramps."""
