"""The folder of a run: its files, checkpoints and weights, and how a run resumes from them."""
