"""The recipe for the output layer: what runs in which order, and how it is reported."""
