"""Teaching a vision-language model what its image tokens mean, from image-text pairs alone."""
