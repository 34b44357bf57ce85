"""The REST interface: checks, stores and queues; never solves."""
