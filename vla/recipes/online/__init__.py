"""Policies that learn from what they do, in rounds: act, label, learn."""

from vla.recipes.online.config import OnlineConfig
from vla.recipes.online.loop import OnlineResult, online

__all__ = ["OnlineConfig", "OnlineResult", "online"]
