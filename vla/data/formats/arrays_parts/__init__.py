"""Episodes as named arrays: the containers that hold them, and what is read as what."""
