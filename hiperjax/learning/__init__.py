"""Wing 2: what turns are worth."""
