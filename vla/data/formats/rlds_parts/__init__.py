"""What a TFDS folder holds: its description, and records without TensorFlow."""
