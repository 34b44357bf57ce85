"""What every phase of a solve shares: the job's mathematics, its clock, and the weights it moves."""
