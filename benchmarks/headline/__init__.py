"""The headline experiment: the hybrid against the strongest things a practitioner would do, at the same cost."""
