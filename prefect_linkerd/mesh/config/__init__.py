"""What a user says about a mesh."""
