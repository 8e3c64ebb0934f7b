"""Typed configs from YAML files and dotted overrides; imports no torch, so `vla --help` is quick.

`register` and the other names of the registry are offered here too, where plug-ins have always
found them.
"""

from vla.common.errors import ConfigError, UserError
from vla.common.registry import lookup, register, registered
from vla.config.base import CONFIG_VERSION, Config, RootConfig, check_config
from vla.config.choice import Choice
from vla.config.loading import (
    SECTIONS,
    apply_overrides,
    dump_config,
    load_config,
    read_yaml,
    schema,
    validate,
)
from vla.config.paths import ConfigPath, PathText

__all__ = [
    "CONFIG_VERSION",
    "SECTIONS",
    "Choice",
    "Config",
    "ConfigError",
    "ConfigPath",
    "PathText",
    "RootConfig",
    "UserError",
    "apply_overrides",
    "check_config",
    "dump_config",
    "load_config",
    "lookup",
    "read_yaml",
    "register",
    "registered",
    "schema",
    "validate",
]
