"""The events of a training loop: hooks, state, accumulation and the optimizer step."""
