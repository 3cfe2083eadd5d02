"""What the user says: typed, frozen configuration read from YAML and the command line."""

from scpl_ray.config.load import dump_yaml, load_config
from scpl_ray.config.schema import Config

__all__ = ["Config", "dump_yaml", "load_config"]
