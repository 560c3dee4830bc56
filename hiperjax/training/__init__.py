"""Training: the loop and what a run needs around it."""
