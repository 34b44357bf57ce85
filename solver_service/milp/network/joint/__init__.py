"""The search over a block and all layers that move: fast gradients, descents, unit replacement."""
