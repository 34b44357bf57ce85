"""Pure rules: a job's life, its history, what is counted, who owns what."""
