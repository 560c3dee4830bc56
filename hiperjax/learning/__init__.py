"""Learning: packing, advantage estimation, losses, updates."""
