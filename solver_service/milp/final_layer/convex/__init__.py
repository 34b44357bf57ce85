"""Objectives that are convex programs, or are fitted by some: mse, huber, log_loss, trimmed means, smoothed ones."""
