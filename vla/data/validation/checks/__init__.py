"""What `vla data validate` looks at: one idea per file, each check registered under "checks"."""
