"""Devices and processes: where arrays live, and many processes as one run."""
