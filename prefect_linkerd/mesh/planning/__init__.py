"""What a run would change and what it would lose, found out before the first write."""
