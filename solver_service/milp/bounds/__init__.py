"""Cheap proofs: dual bounds from relaxations."""
