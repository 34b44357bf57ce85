"""The laboratory: tasks, methods, experiments, plots and commands."""
