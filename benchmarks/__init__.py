"""Measurements: ``python -m benchmarks`` compares speed with other libraries and says which goals hold."""
