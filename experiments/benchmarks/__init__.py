"""Benchmarks: ratios in one run. `python -m experiments.benchmarks.NAME`."""
