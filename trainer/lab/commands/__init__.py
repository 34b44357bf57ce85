"""What `gdsolver` does: training and comparing, jobs by hand, and telling what can be tunnelled."""
