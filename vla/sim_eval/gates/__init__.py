"""When the expert takes over from a policy that acts, one rule a file, registered under "gates"."""
