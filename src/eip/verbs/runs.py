"""The run folder of a configuration: what was asked, and what is worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from eip.config import Config, LearningConfig, load_config, parse_config
from eip.errors import InputError
from eip.run_folder import RunFolder, file_identity, with_files, working_in

C = TypeVar("C", bound=Config)


def configured(given: object, root: type[C]) -> C:
    """A configuration, or what the file of one holds.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(given, str | Path):
        return load_config(given, root=root)
    if not isinstance(given, root):
        raise InputError(
            f"expected the path of a YAML file or an eip.config.{root.__name__}, got "
            f"{type(given).__name__}"
        )
    return given


#: Where a run goes on may change; what makes its weights may not.
_FREE_KEYS = frozenset(
    f"training.{key}" for key in ("device", "devices", "kernels", "num_workers", "parallel")
)


#: Where, in the folder of a run, what is worth keeping lies: all but this can be had again.
_RESULTS = {
    "train": ("model.eip", "checkpoints/*.ckpt", "members/*/model.eip",
              "members/*/checkpoints/*.ckpt", "folds/*/checkpoints/*.ckpt"),
    "learn": ("labels/*/label.npz", "generation-*/model/model.eip",
              "generation-*/model/checkpoints/*.ckpt"),
}  # fmt: skip


_MAKES = {
    "train": ("config.yaml", "train.csv", "checkpoints", "tensorboard", "members", "folds"),
    "learn": ("config.yaml", "ledger.db*", "labels", "generation-*", "time.json", "data"),
}


#: Seconds; processes that train members end soon after the one that was killed.
_PATIENCE = 30.0


def run_of(
    config: Config,
    verb: str,
    *,
    resume: bool,
    free: frozenset[str] = frozenset(),
    edited: Callable[[Mapping[str, Sequence[str]]], None] = lambda files: None,
) -> AbstractContextManager[RunFolder]:
    """The run folder of a configuration, see `eip.run_folder.working_in`.

    Args:
        verb: "train" or "learn".
        free: keys that a run that goes on may have changed, beside where it runs.
        edited: see there.
    """
    folder, root = config.run_dir, type(config)

    def earlier() -> dict[str, Any] | None:
        kept = folder / "config.yaml"
        return _asked(load_config(kept, root=root)) if kept.is_file() else None

    def changed(files: Mapping[str, Sequence[str]]) -> None:
        if model := files.get("model.start_from"):
            raise InputError(
                f"{model[0]} (model.start_from) has changed since the run in {folder} was begun "
                "with it; put it back, or choose another run_dir"
            )
        edited(files)

    smallest = {"data": {"train": ["x"]}}
    if issubclass(root, LearningConfig):
        smallest["learn"] = {"starts": ["x"]}
    return working_in(
        folder,
        verb,
        _asked(config),
        resume=resume,
        result=lambda: any(True for name in _RESULTS[verb] for _ in folder.glob(name)),
        may_change=_FREE_KEYS | free,
        defaults=_asked(parse_config(smallest, root=root)),
        earlier=earlier,
        makes=_MAKES[verb],
        scratch=(*_MAKES["train"], "data") if verb == "train" else ("data",),
        remedy="choose another run_dir",
        edited=changed,
        patience=_PATIENCE if resume else 0.0,
    )


def is_trained(run_dir: Path) -> bool:
    """Whether a training is over, its report included, which earlier versions wrote last."""
    return all((run_dir / name).is_file() for name in ("model.eip", "metrics.json"))


def _asked(config: Config) -> dict[str, Any]:
    """A configuration as far as it makes the result, wherever its files are.

    Of frames it is only said whether there are any: what they hold is compared by
    `eip.data.kept.kept_frames`.
    """
    values = config.to_dict()
    del values["run_dir"]
    # As in records of before: beside the backbone's name, and its default left open.
    backbone = values["model"].pop("backbone")
    default = type(config.model.backbone).model_fields.get("radial_functions")
    if default is not None and backbone["radial_functions"] == default.default:
        backbone["radial_functions"] = None
    values["model"] |= {"backbone": backbone.pop("name"), **backbone}
    values = _flat(values)
    for key in ("train", "validation", "test", "ood"):
        if isinstance(files := values[f"data.{key}"], list):
            values[f"data.{key}"] = "files" if files else "none"
    if config.model.start_from is not None:
        values["model.start_from"] = file_identity(config.model.start_from)
    if isinstance(config, LearningConfig):
        values["learn.starts"] = [file_identity(path) for path in config.learn.starts]
        values["learn.labeler_options"] = with_files(config.learn.labeler_options)
    return values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("element_energies", "labeler_options"):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
