"""From values and rewards to the credit of every reply token."""
