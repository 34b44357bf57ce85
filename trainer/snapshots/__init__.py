"""Model and samples to the wire, and answers back to parameters."""
