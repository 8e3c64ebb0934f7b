"""What is printed: consoles that show control characters, and tables that break no word."""
