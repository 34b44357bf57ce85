"""Descents in float32: what works at any size in a tenth of a second."""
