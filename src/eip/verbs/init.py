"""`eip init`: a commented configuration to start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eip.config import default_config_yaml, root_of
from eip.errors import InputError
from eip.files import write_whole
from eip.settings.explain import needed_keys


def init(
    path: str | Path = "config.yaml",
    train: Sequence[str] = (),
    *,
    verb: str = "train",
    force: bool = False,
) -> list[str]:
    """Writes a YAML file with every key, its meaning and its default.

    Args:
        train: files to train on, relative to the file that is written.
        verb: which will read it: "train", "learn", "md", "label" or "analyze".
        force: replaces a file that is there.

    Returns:
        The keys that have to be set in it.

    Raises:
        InputError: if the file is there already or its folder is not; if the verb reads no file.
    """
    path, root = Path(path), root_of(verb)
    if path.exists() and not force:
        raise InputError(f"{path} exists already; --force (force=True) replaces it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    write_whole(path, default_config_yaml(train, root))
    return [key for key in needed_keys(root) if not (key == "data.train" and train)]
