"""The policies that a config can name: one file each, found by the registry; folders hold parts of
a policy."""
