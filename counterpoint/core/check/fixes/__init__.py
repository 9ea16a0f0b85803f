"""Fixes of faults: which change to offer, how it is applied to a list, and how it is worded."""
