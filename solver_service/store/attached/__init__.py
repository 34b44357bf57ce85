"""What is kept beside a job's record: its log, and the batch that it was sent in."""
