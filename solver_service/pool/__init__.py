"""The embedded stack, and what an operator runs."""
