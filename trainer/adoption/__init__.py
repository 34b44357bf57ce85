"""Bringing an answer into a model that has moved on, if it helps."""
