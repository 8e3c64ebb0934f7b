"""Reward models: what the steps of episodes were worth, one file per kind.

`vla.models.rewards.storage.load_reward` reads one, `vla.models.rewards.scoring.score_episodes`
puts its rewards on episodes.
"""
