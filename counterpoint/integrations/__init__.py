"""Counterpoint in other training loops: a folder for each, and beside them what the loops share."""
