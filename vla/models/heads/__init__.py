"""Action heads: from hidden states of a trunk to distributions over action chunks. One head, one
file."""
