"""Wing 1: how turns come to be."""
