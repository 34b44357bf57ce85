"""The recipe for whole networks: a block, its activation, and the layers behind it."""
