"""Programs that make pages of docs/ from the code."""
