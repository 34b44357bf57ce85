"""A pool in a file, and back: what an operator keeps elsewhere in case a Redis and its disk are lost."""
