"""Studies of learning. `python -m experiments.studies.NAME`."""
