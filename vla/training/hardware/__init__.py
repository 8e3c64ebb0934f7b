"""What of a training depends on the machine: memory and the precision of its arithmetic."""
