"""What envs in MuJoCo share: the adapter for gymnasium's envs, and changes to a
model that can be undone."""
