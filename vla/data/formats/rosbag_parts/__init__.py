"""Recordings of ROS: their messages as numbers, texts and images."""
