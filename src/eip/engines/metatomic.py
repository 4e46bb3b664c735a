"""metatomic: a potential as one file that LAMMPS, ASE, i-PI, torch-sim, GROMACS and others run.

    from eip.engines.metatomic import export

    export("model.eip", "model.pt")

The file holds nothing of eIP's: the potential is traced in plain PyTorch, so that it runs wherever
metatomic does, slower than by eIP's kernels. What the trace cannot follow would be wrong without a
word; so it is held against the potential on other structures before anything is written.
"""

# Without "from __future__ import annotations": TorchScript reads the annotations themselves.

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.kernels.operators import Decomposed
from eip.neighbors import build_graph
from eip.potential import Potential, layers
from eip.prediction import Quantity, quantities
from eip.simulation.calculator import as_potential
from eip.uncertainty.network import NetworkPotential

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ImportError as error:
    raise ImportError(
        "eip.engines.metatomic needs metatomic: pip install 'eip[metatomic]'"
    ) from error

#: eV/atom (times the largest force over 1 eV/Å, above that), and of forces and σ relative to the
#: largest of a structure: what a trace may be off by.
_ENERGY_TOLERANCE, _TOLERANCE = 1e-5, 1e-4
#: Metatomic has names of its own for these; all others are in eIP's domain.
_STANDARD = ("energy", "energy_uncertainty")
_DOMAIN = "eip::"

_Arrays = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def export(model: str | Path | Potential, out: str | Path) -> Path:
    """Writes a potential as a model of metatomic.

    Its outputs are ``energy`` (of structures, and of atoms), ``energy_uncertainty``, both by their
    standard names, and ``eip::force_uncertainty``, ``eip::extrapolation_grade``, … (atoms) and
    ``eip::uncertainty`` (structures), in eV and eV/Å; forces and stress are the energy's gradients,
    which engines take. It runs on a CPU, with positions in float64.

    Args:
        model: path of a model.eip, or a potential.
        out: the file, which ends in .pt; replaced if it is there.

    Returns:
        the file.

    Raises:
        InputError: if the name does not end in .pt, or the potential cannot be traced: σ that is
            made of forces (ensembles, LLPR) cannot, nor a network that was trained elsewhere.
    """
    out = Path(out)
    if out.suffix != ".pt":
        raise InputError(f"{out}: a model of metatomic is a file that ends in .pt")
    potential = as_potential(model, device="cpu").requires_grad_(False)
    example = _arrays(_examples(potential, seed=0), potential)
    by_atom, by_frame = _described(potential, example)
    traced = _traced(potential, by_atom, by_frame, example)
    _check(traced, potential, by_atom)
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="atom", description="total energy")}
    for of in (*by_atom, *by_frame):
        kind = "atom" if of.level == "atom" else "system"
        # What metatomic has no unit for goes out as it is.
        unit = of.unit.replace("Å", "A") if of.unit else ""
        outputs[_name(of)] = ModelOutput(unit=unit, sample_kind=kind, description=of.about)
    capabilities = ModelCapabilities(
        outputs=outputs,
        atomic_types=list(potential.elements),
        interaction_range=_reach(potential),
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float64",
    )
    module = _Exported(
        traced, potential.cutoff, [_name(of) for of in by_atom], [_name(of) for of in by_frame]
    ).eval()
    metadata = ModelMetadata(name="eIP", description="a potential with its uncertainty")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        whole = Path(scratch) / out.name
        AtomisticModel(module, metadata, capabilities).save(str(whole))
        whole.replace(out)
    return out


def _name(of: Quantity) -> str:
    return of.name if of.name in _STANDARD else _DOMAIN + of.name


def _reach(potential: Potential) -> float:
    """How far an atom's energy and σ reach, Å: a cutoff for each round of messages and, of the
    latent distance, one more."""
    *_, inside = layers(potential)
    assert isinstance(inside, NetworkPotential)
    rounds = int(inside.backbone_settings.to_dict().get("interactions", 1))
    return (rounds + 1) * potential.cutoff


# Tracing --------------------------------------------------------------------------------------


class _AsTorchScript(TorchFunctionMode):
    """Inside, parts of an array are slices: the gradient that TorchScript takes of ``chunk`` is
    wrong in shape where one of the parts has none."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in ("chunk", "split"):
            return func(*args, **kwargs)
        array, axis = args[0], kwargs.get("dim", args[2] if len(args) > 2 else 0)
        parts, at = [], 0
        for part in func(*args, **kwargs):
            size = int(part.shape[axis])
            parts.append(array.narrow(axis, at, size))
            at += size
        return tuple(parts)


class _Traceable(torch.nn.Module):
    """A potential as a function of arrays: energies of atoms, all else of atoms, of structures."""

    def __init__(
        self, potential: Potential, by_atom: Sequence[Quantity], by_frame: Sequence[Quantity]
    ) -> None:
        super().__init__()
        self.potential = potential
        self._names = [of.name for of in by_atom], [of.name for of in by_frame]

    def forward(
        self,
        numbers: Tensor,
        positions: Tensor,
        cell: Tensor,
        frame: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        shifts: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # What is periodic is in the shifts.
        pbc = torch.ones_like(cell[:, 0], dtype=torch.bool)
        graph = AtomGraph(numbers, positions, cell, pbc, frame, centers, neighbors, shifts)
        said = self.potential(graph, forces=False, differentiable="uncertainty")
        atoms, frames = ([getattr(said, name).double() for name in names] for names in self._names)
        return (
            said.energies,
            torch.stack([positions[:, 0].detach(), *atoms], dim=1)[:, 1:],
            torch.stack([cell[:, 0, 0].detach(), *frames], dim=1)[:, 1:],
        )


def _arrays(structures: Sequence[Atoms], potential: Potential) -> _Arrays:
    graph = build_graph(structures, potential.cutoff)
    return (
        *(graph.numbers, graph.positions.requires_grad_(), graph.cell, graph.frame),
        *(graph.centers, graph.neighbors, graph.shifts),
    )


def _described(potential: Potential, example: _Arrays) -> tuple[list[Quantity], list[Quantity]]:
    """What the potential says beside the energy, a number for each atom or structure."""
    said = potential(_graph(example), forces=False)
    if said.energies is None or not isinstance([*layers(potential)][-1], NetworkPotential):
        raise InputError(
            "only potentials of one network of eIP's own can be exported to metatomic, got "
            f"{type(potential).__name__}: σ that is made of several networks' forces cannot"
        )
    given = [
        of
        for of in quantities(type(said))
        if not (of.internal or of.ase or of.shape) and getattr(said, of.name) is not None
    ]
    by_atom = [of for of in given if of.level == "atom"]
    return by_atom, [of for of in given if of.level == "frame"]


def _graph(arrays: _Arrays) -> AtomGraph:
    numbers, positions, cell, frame, centers, neighbors, shifts = arrays
    pbc = cell.flatten(1).any(dim=1)[:, None].expand(-1, 3)
    return AtomGraph(numbers, positions, cell, pbc, frame, centers, neighbors, shifts)


def _traced(
    potential: Potential,
    by_atom: Sequence[Quantity],
    by_frame: Sequence[Quantity],
    example: _Arrays,
) -> Any:
    with reference_path(), _AsTorchScript(), Decomposed(), warnings.catch_warnings():
        # Branches that depend on numbers: the example is such that they are the general ones.
        warnings.simplefilter("ignore")
        try:
            return torch.jit.trace(
                _Traceable(potential, by_atom, by_frame), example, check_trace=False
            )
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"{type(potential).__name__} cannot be traced for metatomic: {error}"
            ) from error


def _examples(potential: Potential, seed: int) -> list[Atoms]:
    """All elements in a crystal and in a molecule, and two atoms closer than any data."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.resize(potential.elements, max(len(potential.elements), 8)))
    side = int(np.ceil(len(numbers) ** (1 / 3)))
    grid = np.array([*np.ndindex(side, side, side)][: len(numbers)])
    places = 2.0 * grid + rng.uniform(-0.3, 0.3, grid.shape)
    crystal = Atoms(numbers, places, cell=np.eye(3) * 2.0 * side, pbc=True)
    close = Atoms([potential.elements[0]] * 2, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
    return [crystal, Atoms(numbers, 1.1 * places), close]


def _check(traced: Callable[..., Any], potential: Potential, by_atom: Sequence[Quantity]) -> None:
    """Raises an InputError unless the trace says what the potential says of other structures."""
    alone = Atoms([potential.elements[-1]], [[1.0, 2.0, 3.0]])
    others = _examples(potential, seed=1)
    for structures in ([alone], [others[0]], [others[0].repeat((2, 1, 1)), alone, others[2]]):
        arrays = _arrays(structures, potential)
        energies, atoms, _ = traced(*arrays)
        (slope,) = torch.autograd.grad(energies.sum(), [arrays[1]])
        said = potential(_graph(arrays).with_positions(arrays[1].detach()))
        assert said.forces is not None
        strongest = max(float(said.forces.abs().max()), 1.0)
        wanted = [(energies, said.energies, None), (-slope, said.forces, 1e-2)]
        wanted += [(atoms[:, k], getattr(said, of.name), 1e-6) for k, of in enumerate(by_atom)]
        for found, want, floor in wanted:
            away = float((found - want).detach().abs().max())
            allowed = _ENERGY_TOLERANCE * strongest
            if floor is not None:
                allowed = _TOLERANCE * max(float(want.abs().max()), floor)
            if not away <= allowed:
                raise InputError(
                    f"{type(potential).__name__} cannot be exported to metatomic: what was traced "
                    f"deviates from it by {away:.1e}"
                )


# What metatomic runs --------------------------------------------------------------------------


class _Exported(torch.nn.Module):
    """The interface of metatomic's models, round a trace; compiled by TorchScript."""

    def __init__(
        self,
        traced: torch.nn.Module,
        cutoff: float,
        by_atom: List[str],  # noqa: UP006
        by_frame: List[str],  # noqa: UP006
    ) -> None:
        super().__init__()
        self.traced = traced
        self.by_atom = by_atom
        self.by_frame = by_frame
        self.neighbors = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return [self.neighbors]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        numbers: List[Tensor] = []  # noqa: UP006
        positions: List[Tensor] = []  # noqa: UP006
        cells: List[Tensor] = []  # noqa: UP006
        frame: List[Tensor] = []  # noqa: UP006
        place: List[Tensor] = []  # noqa: UP006
        begin: List[int] = []  # noqa: UP006
        centers: List[Tensor] = []  # noqa: UP006
        others: List[Tensor] = []  # noqa: UP006
        shifts: List[Tensor] = []  # noqa: UP006
        first = 0
        device = systems[0].positions.device
        for index, system in enumerate(systems):
            count = system.positions.shape[0]
            numbers.append(system.types.to(torch.long))
            positions.append(system.positions)
            cells.append(system.cell)
            frame.append(torch.full((count,), index, dtype=torch.long, device=device))
            place.append(torch.arange(count, dtype=torch.long, device=device))
            begin.append(first)
            pairs = system.get_neighbor_list(self.neighbors).samples
            centers.append(pairs.column("first_atom").to(torch.long) + first)
            others.append(pairs.column("second_atom").to(torch.long) + first)
            columns = [pairs.column("cell_shift_" + axis) for axis in ["a", "b", "c"]]
            shifts.append(torch.stack(columns, dim=1).to(torch.float32))
            first += count
        center = torch.cat(centers)
        order = torch.argsort(center, stable=True)
        which = torch.cat(frame)
        energies, of_atoms, of_frames = self.traced(
            torch.cat(numbers),
            torch.cat(positions),
            torch.stack(cells),
            which,
            center[order],
            torch.cat(others)[order],
            torch.cat(shifts)[order],
        )
        rows = torch.arange(first, dtype=torch.long, device=device)
        if selected_atoms is not None:
            starts = torch.tensor(begin, dtype=torch.long, device=device)
            chosen = selected_atoms.column("system").to(torch.long)
            rows = starts[chosen] + selected_atoms.column("atom").to(torch.long)
        which_atom = torch.stack([which[rows], torch.cat(place)[rows]], dim=1)
        atoms = Labels(["system", "atom"], which_atom.to(torch.int32))
        frames = Labels(
            ["system"], torch.arange(len(systems), dtype=torch.int32, device=device)[:, None]
        )
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        for name, asked in outputs.items():
            if name == "energy":
                energy = energies[rows]
                if asked.sample_kind == "atom":
                    results[name] = self.as_map(energy, atoms, name)
                else:
                    total = torch.zeros(len(systems), dtype=energy.dtype, device=device)
                    total = total.index_add(0, which[rows], energy)
                    results[name] = self.as_map(total, frames, name)
            for column, known in enumerate(self.by_atom):
                if name == known:
                    results[name] = self.as_map(of_atoms[rows, column], atoms, name)
            for column, known in enumerate(self.by_frame):
                if name == known:
                    results[name] = self.as_map(of_frames[:, column], frames, name)
        return results

    def as_map(self, values: Tensor, samples: Labels, name: str) -> TensorMap:
        label = "energy" if name == "energy_uncertainty" else name.split("::")[-1]
        zero = torch.zeros(1, 1, dtype=torch.int32, device=values.device)
        block = TensorBlock(
            values=values[:, None],
            samples=samples,
            components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
            properties=Labels([label], zero),
        )
        return TensorMap(keys=Labels(["_"], zero), blocks=[block])
