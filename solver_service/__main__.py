"""Lets `python -m solver_service` do what `gdsolver-pool` does."""

import gdsolver

gdsolver.pool()
