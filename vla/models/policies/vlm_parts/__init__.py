"""Parts of the policy `vlm`: decoding of action tokens, and the files of its checkpoints."""
