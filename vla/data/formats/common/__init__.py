"""What readers of several formats share: episodes in, table and spec out; files, HDF5, CSV,
names."""
