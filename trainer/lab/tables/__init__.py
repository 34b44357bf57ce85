"""From a text file with columns to arrays: reading, the rule for numbers and times, what a column is, its encoding."""
