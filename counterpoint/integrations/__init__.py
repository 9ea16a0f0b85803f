"""Counterpoint in other training loops: one file for each, which imports the loop's library."""
