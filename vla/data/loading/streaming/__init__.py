"""Windows of data that is larger than memory: frames are decoded in shuffled blocks shortly before they are used."""
