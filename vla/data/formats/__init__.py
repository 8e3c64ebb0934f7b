"""Dataset formats: one file, one format, registered under "formats"."""
