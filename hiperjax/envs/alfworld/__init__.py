"""ALFWorld, native: the rules, the games, a generator of games, an expert with subgoals."""
