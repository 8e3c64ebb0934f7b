"""What `vla data validate` looks at: one idea per file, each check registered in the table of
`table.py`."""
