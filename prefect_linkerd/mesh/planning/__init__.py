"""What a run would change and what it would lose, worked out before the first write."""
