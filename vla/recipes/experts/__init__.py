"""Experts trained by stable-baselines3 and sb3-contrib: `vla expert`.

The actor that they learn becomes a policy folder of this package, checked to act equal. See
`vla.recipes.experts.run.train_expert`.
"""
