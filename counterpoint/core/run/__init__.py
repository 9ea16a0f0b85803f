"""Run a plan on batches and in a training loop."""
