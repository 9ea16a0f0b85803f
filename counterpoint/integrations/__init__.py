"""Counterpoint in other people's training loops: one file a loop, each importing its loop only when it is imported."""
