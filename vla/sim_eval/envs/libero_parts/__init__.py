"""What the env of LIBERO consists of, one idea per file."""
