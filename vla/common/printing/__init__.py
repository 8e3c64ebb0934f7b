"""What people read: consoles, tables, and numbers as texts."""
