"""Commands that learn beside `vla train`."""
