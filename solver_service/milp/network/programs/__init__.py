"""Linear programs over a block, one activation pattern after another, from many starts."""
