"""What a job's constraints add to a model: columns and rows beside those of the objective."""
