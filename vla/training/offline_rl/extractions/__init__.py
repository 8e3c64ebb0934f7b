"""Ways to make a policy out of values, one file each: the extraction part of `actor_critic`."""
