"""System identification: the hidden numbers of a simulated world out of one recorded episode."""
