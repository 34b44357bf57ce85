"""Back to float32: from a solver's change to weights inside the box, recomputed."""
