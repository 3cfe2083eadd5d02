"""What a run looks like afterwards: its history, pictures of it, and a page of all of it."""
