"""config.yaml → validated settings → the objects that training is made of.

Every key has its default and its meaning here and nowhere else: `default_config_yaml` writes them
into the file that ``eip init`` makes, and errors quote file, line and key.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from eip.active_learning.settings import LearningSettings
from eip.errors import InputError, did_you_mean
from eip.training.settings import TrainingSettings
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM, UNITS, unit_factor

if TYPE_CHECKING:
    from eip.data.readers import Labels

# --- kinds of values -----------------------------------------------------------------------------


def _below_config(path: Path, info: Any) -> Path:
    if "\0" in str(path):
        raise ValueError("should be a path, and no path holds a null character")
    base = (info.context or {}).get("base")
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"should be a path ({error})") from None
    # Without the "..", so that errors and tables show the path a person would write.
    return Path(os.path.normpath(Path(base or ".") / path))


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _one_or_more_numbers(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else value


def _validation(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)  # "1e-1", which YAML takes for text
        except ValueError:
            return [value]
    if isinstance(value, Path):
        return [value]
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise ValueError("should be a fraction (0.1), a number of frames (50) or files")
    if isinstance(value, int | float):
        if not 0 < value < math.inf or (value >= 1 and value != int(value)):
            raise ValueError("should be a fraction between 0 and 1 or a whole number of frames")
        return int(value) if value >= 1 else value
    return value


def _known_unit(kind: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value is not None and unit_factor(kind, str(value)) is None:
            raise ValueError(f"unknown unit: {did_you_mean(str(value), UNITS[kind])}")
        return value

    return BeforeValidator(check)


def _by_symbol(value: Any) -> Any:
    from ase.data import atomic_numbers, chemical_symbols

    if not isinstance(value, dict):
        return value
    out = {}
    for key, energy in value.items():
        if isinstance(key, int) and not isinstance(key, bool) and 0 < key < len(chemical_symbols):
            key = chemical_symbols[key]
        if key not in atomic_numbers or key == "X":
            raise ValueError(
                f"'{key}' is no chemical symbol"
                + (" (put No, nobelium, in quotes)" if key is False else "")
            )
        out[key] = energy
    return out


ConfigPath = Annotated[Path, AfterValidator(_below_config)]
Files = Annotated[list[ConfigPath], BeforeValidator(_one_or_more)]
Validation = Annotated[int | float | list[ConfigPath], BeforeValidator(_validation)]
EnergyUnit = Annotated[str, _known_unit("energy")]
LengthUnit = Annotated[str, _known_unit("length")]
ForcesUnit = Annotated[str, _known_unit("forces")]
StressUnit = Annotated[str, _known_unit("stress")]
ElementEnergies = Annotated[dict[str, float], BeforeValidator(_by_symbol)]


#: A number that memory, time or a float cannot hold is a slip.
Count = Annotated[int, Field(le=10**9)]
#: What NumPy and PyTorch both take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]

C = TypeVar("C", bound="Config")


# --- sections ------------------------------------------------------------------------------------


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: Any) -> Any:
        # Else "epochs: yes" would be one epoch. A key that takes true and false has no other type.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("should not be true or false")
        return value


class LabelsConfig(Section):
    """Keys of the labels, and their units. An empty key: the usual names are looked for, in any
    case."""

    energy: str | None = Field(None, description="total energy, for example REF_energy")
    forces: str | None = Field(None, description="forces")
    stress: str | None = Field(None, description="stress")
    energy_unit: EnergyUnit | None = Field(
        None, description=f"{', '.join(ENERGY_IN_EV)}; empty: as the file declares, else eV"
    )
    length_unit: LengthUnit | None = Field(
        None, description=f"{', '.join(LENGTH_IN_ANGSTROM)}; empty: as the file declares, else Ang"
    )
    forces_unit: ForcesUnit | None = Field(
        None,
        description="eV/Ang, Hartree/Bohr, kcal/mol/Ang, …; empty: as the file declares, else "
        "energy_unit/length_unit",
    )
    stress_unit: StressUnit | None = Field(
        None,
        description="eV/Ang^3, GPa, kbar, Hartree/Bohr^3, …; empty: as the file declares, else "
        "energy_unit/length_unit^3",
    )
    stress_sign: Literal["ase", "vasp"] | None = Field(
        None, description="ase: (1/V) dE/dε; vasp: the other one; empty: ase"
    )
    elements: Annotated[list[str], BeforeValidator(_one_or_more)] | None = Field(
        None, description="of types 1, 2, … of LAMMPS' files, as [O, H]"
    )
    keep_isolated_atoms: bool = Field(
        False,
        description="lone atoms with config_type=IsolatedAtom are frames like others; else they "
        "give the energies of elements and are no frames",
    )
    skip_unconverged: bool = Field(
        False,
        description="steps of an output whose SCF did not converge are left out, with a warning; "
        "else they are an error",
    )


class DataConfig(Section):
    """Labelled frames: extended XYZ, anything ASE reads, npz, DeePMD folders."""

    train: Files = Field(
        description="file or files to train on", examples=[["train.xyz"]], min_length=1
    )
    validation: Validation = Field(
        0.1,
        description="frames that choose the best epoch and fit the calibration: a fraction of the "
        "training frames (0.1), a number of them (50), or files",
    )
    split: Literal["random", "last", "by_group"] = Field(
        "random",
        description="random; by_group: at random, but frames of one material stay together; last: "
        "the frames that end the training files",
    )
    group_key: str | None = Field(
        None,
        description="for by_group: the key of what frames must share, file for the file they are "
        "in; empty: material_id, mp_id, mptrj_traj_id, as MPtrj has them",
    )
    split_seed: Seed = Field(0, description="which frames a random split draws")
    test: Files = Field([], description="file or files to report on after training")
    ood: Files = Field(
        [], description="file or files unlike the training frames, to see whether σ notices"
    )
    labels: LabelsConfig = LabelsConfig()
    element_energies: ElementEnergies | None = Field(
        None,
        description="energies of isolated atoms, eV, as {H: -13.6, O: -432.1}; empty: of frames "
        "with config_type=IsolatedAtom, else fitted",
    )


class ModelConfig(Section):
    """The network and how it knows its error."""

    backbone: Literal["painn", "cartesian_ace"] = Field(
        "painn",
        description="painn, the paper's; cartesian_ace: tensors and products of three factors, "
        "more accurate, about one and a half times as dear to train",
    )
    uncertainty: Literal[
        "tensor",
        "componentwise",
        "isotropic",
        "global",
        "mve",
        "ensemble",
        "shallow_ensemble",
        "dropout",
        "llpr",
        "gmm",
        "none",
    ] = Field(
        "tensor",
        description="evidence: tensor, isotropic, global, componentwise (the paper's, breaks "
        "rotation); or mve, ensemble, shallow_ensemble, dropout, llpr, gmm; or none",
    )
    latent_distance: bool = Field(
        True,
        description="of evidence: σ grows with the distance from the training atoms in latent "
        "space",
    )
    members: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="networks of an ensemble, last layers of shallow_ensemble, dropout, llpr; "
        "empty: 4, 4, 8, 8",
    )
    channels: int = Field(
        64, ge=1, le=4096, description="features of an atom: 64 is quick, 128 the paper's"
    )
    interactions: int = Field(3, ge=1, le=100, description="rounds of message passing")
    radial_functions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="basis functions of a distance; empty: 20, of cartesian_ace 8",
    )
    cutoff: float = Field(5.0, gt=0, le=50, description="Å; how far an atom sees in one round")
    zbl: bool = Field(False, description="screened nuclear repulsion at short range")
    force_scale: Literal["rms", "mean"] = Field(
        "rms",
        description="unit of forces inside: their RMS, or their mean size where a few are far "
        "larger than the rest",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="float32 or float64")


#: One truth: what a script that calls the trainer gets, a configuration gets too.
_DEFAULTS = TrainingSettings()


class TrainingConfig(Section):
    """How the weights are found."""

    epochs: Count = Field(_DEFAULTS.epochs, ge=1, description="passes over the training frames")
    batch_size: Count = Field(
        _DEFAULTS.batch_size, ge=1, description="frames of a step, of all devices together"
    )
    max_atoms: Count | None = Field(
        _DEFAULTS.max_atoms,
        ge=1,
        description="atoms of a step on each device, in place of batch_size, for frames of mixed "
        "sizes",
    )
    max_edges: Count | None = Field(
        _DEFAULTS.max_edges,
        ge=1,
        description="pairs of atoms within the cutoff, of a step on each device, in place of both",
    )
    learning_rate: float = Field(
        _DEFAULTS.learning_rate, gt=0, description="of AdamW, after the warm-up"
    )
    schedule: Literal["cosine", "constant"] = Field(
        _DEFAULTS.schedule, description="of the rate: cosine or constant"
    )
    minimum_learning_rate: float = Field(
        _DEFAULTS.minimum_learning_rate, gt=0, description="where the cosine decay ends"
    )
    amsgrad: bool = Field(_DEFAULTS.amsgrad, description="second moments of AdamW never shrink")
    weight_decay: float = Field(_DEFAULTS.weight_decay, ge=0, description="of AdamW")
    decayed: Literal["all", "matrices"] = Field(
        _DEFAULTS.decayed,
        description="weights that decay: all, or matrices (no biases, no embeddings)",
    )
    warmup_epochs: float = Field(
        _DEFAULTS.warmup_epochs, ge=0, description="epochs over which the rate rises"
    )
    ema_decay: float = Field(
        _DEFAULTS.ema_decay,
        ge=0,
        lt=1,
        description="of the running average of the weights, which is kept",
    )
    gradient_clip: float = Field(
        _DEFAULTS.gradient_clip, gt=0, description="largest norm of the gradient"
    )
    selection: Literal["loss", "force_rmse"] = Field(
        _DEFAULTS.selection,
        description="what is least in the best epoch, on validation frames: loss or force_rmse",
    )
    patience: Count = Field(
        _DEFAULTS.patience,
        ge=0,
        description="epochs without a better one before the end; 0: never",
    )
    energy_weight: float = Field(
        _DEFAULTS.energy_weight, ge=0, description="of the energy's error in the loss"
    )
    final_energy_weight: float | None = Field(
        _DEFAULTS.final_energy_weight,
        ge=0,
        description="that of the last fifth of the epochs; empty: the same",
    )
    force_weight: float = Field(
        _DEFAULTS.force_weight, ge=0, description="of the evidential loss of the forces"
    )
    stress_weight: float = Field(
        _DEFAULTS.stress_weight, ge=0, description="of the stress; needs stress labels"
    )
    energy_per_atom: bool = Field(
        _DEFAULTS.energy_per_atom, description="count the energy's error per atom, not per frame"
    )
    quantile: float | None = Field(
        _DEFAULTS.quantile,
        gt=0,
        lt=1,
        description="q of the loss; any but 0.5 breaks rotation; empty: without",
    )
    regularization: float = Field(
        _DEFAULTS.regularization, ge=0, description="λ: how much errors weigh against evidence"
    )
    variance_weight: float = Field(
        _DEFAULTS.variance_weight,
        ge=0,
        le=2,
        description="power of its own σ by which an atom counts; 1 where a few forces are far "
        "larger than the rest (crystals of many kinds), or they are passed off as noise",
    )
    seed: Seed = Field(_DEFAULTS.seed, description="of initial weights and the order of frames")
    device: Literal["auto", "cpu", "cuda"] = Field(
        _DEFAULTS.device, description="auto, cpu or cuda"
    )
    devices: int = Field(_DEFAULTS.devices, ge=1, le=1024, description="how many of them")
    parallel: int = Field(1, ge=1, le=1024, description="members of an ensemble trained at once")
    num_workers: int = Field(
        _DEFAULTS.num_workers,
        ge=0,
        le=1024,
        description="processes that prepare batches; 0: none beside",
    )


class Config(Section):
    """All of a training run."""

    run_dir: ConfigPath = Field(
        Path("runs/eip"), validate_default=True, description="folder for everything that comes out"
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Config:
        energy, force = self.training.energy_weight, self.training.force_weight
        if not (energy or force):
            raise ValueError("training.energy_weight and training.force_weight are both 0")
        if not force and self.model.uncertainty != "none":
            raise ValueError(
                f"model.uncertainty is '{self.model.uncertainty}', and σ is learned from forces: "
                f"without them (training.force_weight: 0) it must be none"
            )
        if not energy and self.model.uncertainty == "global":
            raise ValueError(
                "model.uncertainty is 'global', which is learned from energies: "
                "training.energy_weight must not be 0"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `load_config` reads it back from YAML."""
        return self.model_dump(mode="json")


#: As above: one truth.
_LEARN = LearningSettings()


class LearnConfig(Section):
    """Active learning: explore, select, label, train again."""

    starts: Files = Field(
        description="structures that dynamics starts from; every frame of the files",
        examples=[["start.xyz"]],
        min_length=1,
    )
    labeler: Literal["xtb", "cp2k", "ase", "model"] = Field(
        "xtb", description="reference method: xtb (GFN2-xTB), cp2k, ase (any calculator), model"
    )
    labeler_options: dict[str, Any] = Field(
        {}, description="of the labeler, as {method: GFN1-xTB} or {calculator: 'calc.py:make'}"
    )
    generations: Count = Field(_LEARN.generations, ge=1, description="at most")
    initial: Count = Field(
        _LEARN.initial,
        ge=0,
        description="frames labelled before the first training where data.train is empty: the "
        "starts, rattled",
    )
    rattle: float = Field(_LEARN.rattle, gt=0, description="Å, standard deviation of a rattle")
    labels: Count = Field(_LEARN.labels, ge=1, description="a generation, at most")
    max_labels: Count | None = Field(_LEARN.max_labels, ge=1, description="in all; empty: no bound")
    max_hours: float | None = Field(
        _LEARN.max_hours, gt=0, description="of wall time in all; empty: no bound"
    )
    temperatures: Annotated[list[float], BeforeValidator(_one_or_more_numbers)] = Field(
        list(_LEARN.temperatures), description="K; each start runs at each of them", min_length=1
    )
    length_ps: float = Field(
        _LEARN.length_ps, gt=0, le=1e9, description="ps, of each run of dynamics"
    )
    timestep_fs: float = Field(_LEARN.timestep_fs, gt=0, le=1000, description="fs")
    udd: bool = Field(_LEARN.udd, description="beside each run one driven by the uncertainty")
    frame_interval: Count = Field(
        _LEARN.frame_interval, ge=1, description="steps between frames that are looked at"
    )
    selection: Literal["uncertainty", "random"] = Field(
        _LEARN.selection, description="uncertainty, or random, to see what it is worth"
    )
    lower: float | None = Field(
        _LEARN.lower,
        gt=0,
        description="eV/Å; largest σ of an atom from which on a frame is a candidate; empty: a "
        "fifth of the RMS force of the first training set",
    )
    upper: float | None = Field(
        _LEARN.upper, gt=0, description="eV/Å; above it is no more worth a label; empty: that RMS"
    )
    min_distance_ratio: float = Field(
        _LEARN.min_distance_ratio,
        gt=0,
        description="closest atoms of a candidate, in sums of covalent radii",
    )
    max_bond_stretch: float | None = Field(
        _LEARN.max_bond_stretch,
        gt=0,
        description="covalent bonds of the start, likewise; empty: bonds may break",
    )
    validation: float = Field(
        _LEARN.validation, gt=0, lt=1, description="share of the labels that validates"
    )
    candidate_ratio: float = Field(
        _LEARN.candidate_ratio,
        ge=0,
        le=1,
        description="converged when all MD is stable and no larger share of UDD's frames uncertain",
    )
    max_force: float = Field(_LEARN.max_force, gt=0, description="eV/Å, of a label believed")
    max_net_force: float = Field(
        _LEARN.max_net_force, gt=0, description="eV/Å, of the sum of a label's forces"
    )
    executor: str = Field(
        _LEARN.executor, description="processes, serial or parsl:site.py (Slurm, PBS, Kubernetes)"
    )
    workers: int = Field(
        _LEARN.workers, ge=1, le=1024, description="processes that explore and label"
    )
    retries: Count = Field(_LEARN.retries, ge=0, description="of a task whose worker was lost")
    seed: Seed = Field(_LEARN.seed, description="of all that is drawn")


class LearningDataConfig(DataConfig):
    """Labelled frames to begin with, if there are any, and to test with."""

    train: Files = Field([], description="frames labelled already; empty: learn.initial are made")


class LearningConfig(Config):
    """All of a learning run."""

    run_dir: ConfigPath = Field(
        Path("runs/learn"), validate_default=True, description="folder for everything"
    )
    learn: LearnConfig
    data: LearningDataConfig = LearningDataConfig()


# --- reading -------------------------------------------------------------------------------------


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: str | Path, overrides: Sequence[str] = (), *, root: type[C]) -> C: ...


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, root: type[Any] = Config
) -> Any:
    """Reads and checks a YAML file.

    Args:
        path: paths inside the file are relative to its folder.
        overrides: ``"training.epochs=20"``, each on top of the file.
        root: what is in it, `Config` or `LearningConfig`.

    Raises:
        InputError: naming file, line and key of everything that is wrong, and the right key.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a YAML file")
    if not path.is_file():
        raise InputError(f"{path}: no such file. 'eip init {path}' writes one to start from.")
    node, values = _yaml(_text(path), str(path))
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected sections {', '.join(root.model_fields)}, found "
            f"{'nothing' if values is None else type(values).__name__}"
        )
    lines: dict[tuple[str, ...], int] = {}
    for key, line in _lines(node):
        if key in lines:
            raise InputError(
                f"{path}, line {line}: '{'.'.join(key)}' is given twice, first in line {lines[key]}"
            )
        lines[key] = line
    places = {key: f"{path}, line {line}" for key, line in lines.items()}
    for change in overrides:
        changed = override(values, change)
        # What stood there, and below it, is not what counts.
        places = {key: at for key, at in places.items() if key[: len(changed)] != changed}
        places[changed] = f"--set {change}" if len(change) <= 80 else f"--set {change[:79]}…"
    return _parse(values, path.parent, str(path), places, root)


#: A configuration is written by hand, or lists files; what is larger is another file by mistake.
_MOST_BYTES = 2**20
#: Values that aliases may unfold a file to: a few lines of them can say 10¹² values.
_MOST_VALUES = 100_000


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: larger than 1 MiB, so hardly a configuration")
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not text in UTF-8 (byte 0x{content[error.start]:02x}); save it "
            "as UTF-8"
        ) from None


def _yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The nodes and the values of a YAML text.

    Raises:
        InputError: if it is not valid, nested too deeply, or unfolds to more than is sensible.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _unfolded(node, {}) > _MOST_VALUES:
            raise InputError(
                f"{where}: its aliases (*name) unfold to more than {_MOST_VALUES:,} values"
            )
        return node, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            where = f"{where}, line {mark.line + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{where}: not valid YAML ({problem})") from error
    except RecursionError:
        raise InputError(f"{where}: nested too deeply for a configuration") from None
    except InputError:
        raise
    except Exception as error:  # dates, numbers and tags raise whatever Python's conversions do
        raise InputError(f"{where}: not valid YAML ({error})") from error


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds where each alias counts as what it stands for."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what it is if it holds itself
        inside = (
            [part for pair in node.value for part in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in inside)
    return known[id(node)]


@overload
def parse_config(
    values: Mapping[str, Any], *, base: str | Path = ".", name: str = "config"
) -> Config: ...


@overload
def parse_config(
    values: Mapping[str, Any], *, base: str | Path = ".", name: str = "config", root: type[C]
) -> C: ...


def parse_config(
    values: Mapping[str, Any],
    *,
    base: str | Path = ".",
    name: str = "config",
    root: type[Any] = Config,
) -> Any:
    """Checks settings that are a mapping already; ``name`` is for the errors.

    Raises:
        InputError: if anything is wrong.
    """
    return _parse(values, Path(base), name, {}, root)


def _parse(
    values: Mapping[str, Any],
    base: Path,
    name: str,
    places: Mapping[tuple[str, ...], str],
    root: type[C],
) -> C:
    try:
        return root.model_validate(values, context={"base": base})
    except ValidationError as error:
        found = [_explain(e, name, places, root) for e in error.errors()]
        raise InputError("\n".join(dict.fromkeys(found))) from None


def override(values: dict[str, Any], override: str, option: str = "--set") -> tuple[str, ...]:
    """Sets ``a.b=value``, as an option of the command line gave it, in nested mappings.

    Returns:
        The path of the key.

    Raises:
        InputError: if it is no key and value.
    """
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise InputError(f"{option} expects key=value, got '{override[:80]}'")
    shown = override if len(override) <= 80 else f"{override[:79]}…"
    value = _yaml(text, f"{option} {shown}")[1]
    target = values
    for depth, part in enumerate(parts[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
        if not isinstance(target[part], dict):
            raise InputError(
                f"{option} {shown}: '{'.'.join(parts[:depth])}' holds a value, not keys of its own"
            )
        target = target[part]
    target[parts[-1]] = value
    return parts


def _lines(
    node: yaml.Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int]]:
    """The line of each key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)


def _explain(
    error: ErrorDetails, name: str, places: Mapping[tuple[str, ...], str], root: type[Section]
) -> str:
    """One error of pydantic's as a sentence."""
    path = _keys_only(error["loc"], root)
    ends = range(len(path), 0, -1)
    where = next((places[path[:end]] for end in ends if path[:end] in places), name)
    key, kind, context = ".".join(path), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: unknown key '{key}': {_proposal(path, root)}"
    if kind == "missing":
        return f"{where}: '{key}' is missing; {_description(path, root)}"
    given = error["input"]
    shown = f"got {given if isinstance(given, dict | list) else json.dumps(given, default=str)}"
    if len(shown) > 80:
        shown = f"{shown[:77]}…"
    if kind == "literal_error":
        choice = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return f"{where}: '{key}': {did_you_mean(str(given), choice)} ({shown})"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: '{key}' should be a section with keys of its own, {shown}"
    message = error["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input ")
    return f"{where}: '{key}' {message[0].lower()}{message[1:]}, {shown}"


def _keys_only(loc: tuple[int | str, ...], root: type[Section]) -> tuple[str, ...]:
    """A pydantic location without list indices and names of union members."""
    section: type[BaseModel] | None = root
    path: list[str] = []
    for part in loc:
        if section is None:
            break
        path.append(str(part))
        section = _section(section, str(part))
    return tuple(path)


def _section(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    field = section.model_fields.get(key)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _all_keys(section: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> Iterator[str]:
    for key in section.model_fields:
        yield ".".join((*path, key))
        if inner := _section(section, key):
            yield from _all_keys(inner, (*path, key))


#: What other packages call keys of ours.
_OTHER_NAMES = {
    "layers": "interactions",
    "n_layers": "interactions",
    "num_layers": "interactions",
    "num_interactions": "interactions",
    "n_interactions": "interactions",
    "features": "channels",
    "hidden_channels": "channels",
    "num_channels": "channels",
    "r_max": "cutoff",
    "n_rbf": "radial_functions",
    "num_radial_basis": "radial_functions",
    "lr": "learning_rate",
    "max_epochs": "epochs",
    "max_num_epochs": "epochs",
    "forces_weight": "force_weight",
    "clip_grad": "gradient_clip",
    "valid": "validation",
    "val": "validation",
    "default_dtype": "dtype",
}


def _proposal(path: tuple[str, ...], root: type[Section]) -> str:
    """The key that was meant: by its name in another section, or by likeness in its own."""
    section: type[BaseModel] = root
    for part in path[:-1]:
        section = _section(section, part) or section
    siblings = list(section.model_fields)
    if (meant := _OTHER_NAMES.get(path[-1])) in siblings:
        return f"did you mean '{meant}'?"
    near = did_you_mean(path[-1], siblings)
    if near.startswith("did you mean"):
        return near
    everywhere = list(_all_keys(root))
    same = [key for key in everywhere if key.split(".")[-1] == path[-1]]
    if same:
        return f"it belongs to another section: did you mean '{same[0]}'?"
    last = {key.split(".")[-1]: key for key in everywhere}
    # In another section only what is a slip of the finger.
    far = get_close_matches(path[-1], last, n=1, cutoff=0.8)
    return f"did you mean '{last[far[0]]}'?" if far else near


def _description(path: tuple[str, ...], root: type[Section]) -> str:
    section: type[BaseModel] = root
    for part in path[:-1]:
        section = _section(section, part) or section
    inner = _section(section, path[-1])
    if inner is not None:
        return f"it is the section of {', '.join(inner.model_fields)}"
    return f"it is: {section.model_fields[path[-1]].description}"


# --- writing -------------------------------------------------------------------------------------


def default_config_yaml(train: Sequence[str] = (), root: type[Config] = Config) -> str:
    """A commented config.yaml with every key and its default; ``train`` fills ``data.train``."""
    needed = "learn.starts" if issubclass(root, LearningConfig) else "data.train"
    lines = [
        "# eIP configuration. Paths are relative to this file; units are eV, Å, fs, K.",
        f"# What is shown is the default and may be left out; {needed} alone is needed.",
        "",
        *_section_yaml(root, "", {"data.train": list(train)} if train else {}),
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _section_yaml(
    section: type[BaseModel], indent: str, given: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = _section(section, key)
        if inner is not None:
            yield ""
            yield from _comment(inner.__doc__ or "", indent)
            yield f"{indent}{key}:"
            yield from _section_yaml(inner, indent + "  ", given, f"{prefix}{key}.")
            continue
        yield from _comment(field.description or "", indent)
        default = (field.examples or [None])[0] if field.is_required() else field.default
        value = given.get(prefix + key, default)
        yield f"{indent}{key}: {_scalar(value)}".rstrip()


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, 100, initial_indent=prefix, subsequent_indent=prefix)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Path):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def config_yaml(config: Config, run_dir: Path) -> str:
    """A configuration as YAML, to be kept in its run folder: its paths are relative to that."""

    def relative(paths: list[Path]) -> list[str]:
        return [os.path.relpath(path, run_dir) for path in paths]

    values = config.to_dict()
    values["run_dir"] = "."
    for key in ("train", "validation", "test", "ood"):
        paths = getattr(config.data, key)
        if isinstance(paths, list):
            values["data"][key] = relative(paths)
    if isinstance(config, LearningConfig):
        values["learn"]["starts"] = relative(config.learn.starts)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


# --- objects -------------------------------------------------------------------------------------


def build_labels(config: DataConfig) -> Labels:
    """Keys and units for the readers."""
    from eip.data.readers import Labels

    return Labels(**config.labels.model_dump(), group=config.group_key)


def build_learning(config: LearnConfig) -> LearningSettings:
    """Settings of the loop."""
    known = {field.name for field in fields(LearningSettings)}
    values = {k: v for k, v in config.model_dump().items() if k in known}
    return LearningSettings(**{**values, "temperatures": tuple(config.temperatures)})


def build_training(config: TrainingConfig) -> TrainingSettings:
    """Settings of the trainer."""
    known = {field.name for field in fields(TrainingSettings)}
    return TrainingSettings(**{k: v for k, v in config.model_dump().items() if k in known})
