"""What policies are trained to do, one file each, registered under "objectives"."""
