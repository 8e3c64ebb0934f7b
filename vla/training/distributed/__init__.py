"""Several processes of one training."""
