"""Studies and benchmarks: run them with `python -m experiments.NAME`."""
