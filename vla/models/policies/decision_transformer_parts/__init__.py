"""What the policy `decision_transformer` is made of beside the policy itself: its memory, and weights from elsewhere."""
