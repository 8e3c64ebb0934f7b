"""What policies are built of: FiLM-EfficientNet, TokenLearner, transformer blocks, adapters."""
