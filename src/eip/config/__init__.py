"""A YAML file → validated settings → YAML: the rooms' settings, put together for each verb.

Every key has its default and its meaning in the class of its room and nowhere else:
`default_config_yaml` writes them into the file that ``eip init`` makes, and errors quote file,
line and key.
"""

from eip.config.data import DataConfig
from eip.config.learning import LearnConfig, LearningConfig
from eip.config.model import ModelConfig
from eip.config.reading import load_config, override, parse_config, read_yaml
from eip.config.runs import AnalyzeConfig, LabelConfig, MDConfig
from eip.config.schema import ROOTS, root_of, schema
from eip.config.training import Config
from eip.config.writing import config_yaml, default_config_yaml

__all__ = [
    "ROOTS",
    "AnalyzeConfig",
    "Config",
    "DataConfig",
    "LabelConfig",
    "LearnConfig",
    "LearningConfig",
    "MDConfig",
    "ModelConfig",
    "config_yaml",
    "default_config_yaml",
    "load_config",
    "override",
    "parse_config",
    "read_yaml",
    "root_of",
    "schema",
]
