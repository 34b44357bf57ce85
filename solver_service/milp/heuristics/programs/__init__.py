"""Linear programs over kept samples, and what saves their solutions from rounding."""
