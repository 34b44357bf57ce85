"""Models as plain arrays, built from a snapshot and a spec."""
