"""Layers that are not the plain output layer: a block, its activation, and the fixed layers behind it."""
