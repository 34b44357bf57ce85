"""What is decided before any solver: samples, rivals and columns that need no search, and contradictions."""
