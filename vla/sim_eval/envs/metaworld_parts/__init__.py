"""What Meta-World's tasks are called and asked for."""
