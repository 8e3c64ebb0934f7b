"""Windows of data larger than memory: frames are decoded in shuffled blocks before their use."""
