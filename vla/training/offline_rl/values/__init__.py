"""Ways to learn what actions are worth, one file each: the value part of `actor_critic`."""
