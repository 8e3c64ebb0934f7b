"""Files as such: video, images, checksums, locks, shared memory, and files that lie elsewhere."""
