"""What the policy `vlm` is made of beside the policy itself: decoding of action tokens, and its files."""
