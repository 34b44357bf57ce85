"""When to call the solver, for which layer, and how wide a box."""
