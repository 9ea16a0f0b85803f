"""The training loop: passes, metrics, signals, processes, and what it reports."""
