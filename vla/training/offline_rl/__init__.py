"""What objectives of offline RL are made of: values, extractions, target copies, and checks of
data."""
