"""Clocks, threads and randomness: the shells that drive the election."""
