"""Parts of the policy `decision_transformer`: sequence, memory, target, weights from elsewhere."""
