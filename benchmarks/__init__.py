"""Measurements: ``python -m benchmarks`` compares speed with other libraries and says which goals hold.

``python -m benchmarks.gpu`` does so on a GPU.
"""
