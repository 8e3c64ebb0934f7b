"""What belongs to vision-language trunks: answers in words, a base composed of two networks."""
