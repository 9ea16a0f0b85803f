"""Tools for the tensors of callers, models and methods: checks, buffers, shards, and names without wrappers."""
