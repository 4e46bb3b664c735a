"""The ASE calculator: a potential, with its error bars, wherever ASE takes a calculator."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes, all_properties
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float

from eip.errors import unknown_elements
from eip.graph import AtomGraph
from eip.neighbors import VerletList
from eip.potential import Potential, prepared
from eip.prediction import Prediction, check_finite, quantities


def as_potential(
    model: str | Path | Potential,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """A potential ready to predict, from a model file or from a potential.

    A potential that must change device or dtype is copied: the caller's stays as it is.
    """
    if not isinstance(model, Potential):
        # Not at the top: whoever brings a potential of his own needs no model file's reader.
        from eip.model_file import load_model

        return load_model(model, device=device, dtype=dtype)
    elsewhere = device is not None and torch.device(device) != model.device
    if elsewhere or (dtype is not None and dtype != model.dtype):
        model = copy.deepcopy(model).to(device=device, dtype=dtype)
    return model.eval()


def check_elements(potential: Potential, numbers: Sequence[int] | np.ndarray) -> None:
    """Raises `InputError` naming the elements that the potential was not made for."""
    strangers = set(np.asarray(numbers).tolist()) - set(potential.elements)
    if strangers:
        raise unknown_elements(strangers, potential.elements)


class Results(dict[str, Any]):
    """Results as ASE knows them, and beside them what only eIP has.

    As a mapping it is ASE's properties alone, so that ``SinglePointCalculator(atoms, **results)``
    and whatever else goes through all of it finds nothing that ASE refuses. By ``[]``, ``get`` and
    ``in`` the others are found as well.

    Attributes:
        own: what ASE has no name for.
        kind: the class of prediction, whose `eip.prediction.quantities` say what each of them is.
    """

    def __init__(self, results: Mapping[str, Any], kind: type[Prediction] = Prediction) -> None:
        super().__init__({k: v for k, v in results.items() if k in all_properties})
        self.own = {k: v for k, v in results.items() if k not in all_properties}
        self.kind = kind

    def __missing__(self, key: str) -> Any:
        for of in quantities(self.kind):
            if key in of.aliases and of.name in self:
                return of.aliases[key](self[of.name])
        return self.own[key]

    def __contains__(self, key: object) -> bool:
        if super().__contains__(key) or key in self.own:
            return True
        return any(key in of.aliases and of.name in self for of in quantities(self.kind))

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def __reduce__(self) -> tuple[Any, ...]:
        return Results, (self.everything(), self.kind)

    def everything(self) -> dict[str, Any]:
        """All of it as a plain dictionary."""
        return {**self, **self.own}


class Calculator(AseCalculator):
    """Energy, forces and stress with their uncertainties, for ASE.

    ``results`` (see `Results`) holds ASE's ``energy``, ``free_energy`` (the same), ``energies`` (of
    the atoms), ``forces`` and ``stress`` (Voigt order), and under its own name whatever else the
    potential says (``force_uncertainty``, ``uncertainty``, …; see `eip.prediction.Prediction`): a
    float of a structure, an array of its atoms, in eV and Å. `eip.simulation.annotation.annotate`
    takes all of it into files.

    The stress of a slab or a wire is (1/V) ∂E/∂ε like any other, with the volume V of the whole
    cell: its in-plane components times the cell's height are the stress of the slab.

    ``energy``, ``forces`` and ``stress`` never hold the bias: what ASE writes to a file are labels.
    An integrator that is to feel the bias takes a `BiasedCalculator`.

    Args:
        model: path of a model.eip, or a potential (put into evaluation mode), of which a snapshot
            is taken: weights that change later change nothing here.
        stress: True: always computed for a structure that has one (NPT asks for it at every step);
            None: when asked for; False: never.
        skin: Å beyond the cutoff; the neighbor list is rebuilt when an atom has moved by half.
        device, dtype: where and in what precision to predict; None: as the model is.
        allow_non_finite: hand on what is NaN or infinite, for a caller that looks for it; else it
            is an error.

    Raises:
        InputError: at the first structure with an element that the potential was not made for.
        PropertyNotImplementedError: for the stress of a structure that is not periodic at all, or
            whose cell has no volume.
        NonFinitePrediction: where something predicted is NaN or infinite.
    """

    implemented_properties = [  # noqa: RUF012
        name
        for of in quantities(Prediction)
        if not of.internal
        for name in (*of.names, *of.aliases)
    ]

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        stress: bool | None = None,
        skin: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        allow_non_finite: bool = False,
    ) -> None:
        super().__init__()
        self._allow_non_finite = allow_non_finite
        self.potential = prepared(as_potential(model, device=device, dtype=dtype))
        self._stress = stress
        self._neighbors = VerletList(self.potential.cutoff, skin, device=self.potential.device)
        self._listed_at: np.ndarray | None = None
        self._graph: AtomGraph | None = None

    @property
    def graph(self) -> AtomGraph:
        """The graph of the structure last computed; its edges reach to cutoff + skin."""
        if self._graph is None:
            raise RuntimeError("the calculator has not computed a structure yet")
        return self._graph

    @property
    def listed_at(self) -> Float[np.ndarray, "atoms 3"]:
        """Positions that the neighbor list in use was built at, Å; what `relist` takes."""
        if self._listed_at is None:
            raise RuntimeError("the calculator has not computed a structure yet")
        return self._listed_at

    def relist(self, atoms: Atoms, positions: Float[np.ndarray, "atoms 3"]) -> None:
        """Builds the neighbor list as it was for ``atoms`` at earlier positions.

        The order of edges is the order of summation: only with the same list does a continued run
        equal an uninterrupted one to the last bit (on a CPU; a GPU sums in any order).
        """
        earlier = Atoms(numbers=atoms.numbers, positions=positions, cell=atoms.cell, pbc=atoms.pbc)
        self._neighbors(earlier)
        self._listed_at = np.array(positions)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last computation, of what a potential depends on.

        Exact whatever ``tol``, as ASE's own check in effect is (1e-15); that one takes longer
        than all else around the potential in a step of dynamics.
        """
        before = self.atoms
        if before is None or len(before) != len(atoms):
            return list(all_changes)
        # "not ==": NaN has always changed.
        now = {
            "positions": (before.positions, atoms.positions),
            "numbers": (before.numbers, atoms.numbers),
            "cell": (before.cell.array, atoms.cell.array),
            "pbc": (before.pbc, atoms.pbc),
        }
        return [name for name, (one, other) in now.items() if not (one == other).all()]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        assert atoms is not None  # a copy of what was given, or of what came before
        if "numbers" in system_changes:
            check_elements(self.potential, atoms.numbers)
        has_stress = bool(atoms.pbc.any()) and atoms.cell.rank == 3
        if "stress" in properties and (not has_stress or self._stress is False):
            raise PropertyNotImplementedError(
                "stress was switched off for this calculator (stress=False)"
                if has_stress
                else "stress needs a structure that is periodic in one direction or more, with a "
                f"cell of three vectors, got pbc {atoms.pbc.tolist()} and the cell "
                f"{atoms.cell.tolist()}"
            )
        rebuilds = self._neighbors.rebuilds
        self._graph = self._neighbors(atoms)
        if self._neighbors.rebuilds != rebuilds:
            self._listed_at = atoms.positions.copy()
        stress = has_stress and ("stress" in properties or bool(self._stress))
        graph = self._graph
        if stress and not atoms.pbc.all():
            graph = graph.in_cell(graph.cell.new_tensor(atoms.cell.array[None]))
        prediction = self._predict(graph, stress)
        if not self._allow_non_finite:
            check_finite(prediction, graph, lambda _: atoms.get_chemical_formula())
        self.results = _results(prediction)

    def _predict(self, graph: AtomGraph, stress: bool) -> Prediction:
        return self.potential(graph, stress=stress)


class BiasedCalculator(Calculator):
    """What drives a biased run: ``get_forces`` is forces + bias, ``results`` stay labels.

    Integrators ask ``get_forces``; writers read ``results``. So an integrator feels the bias, and
    yet no file can take a biased force for a label. Without a bias it is the plain calculator.

    Args:
        memory: the bias is a running mean over so many of its computations, e^{−1/memory} of one
            staying in the next; 0: that of the moment.
        interval: the bias counts so many times; see `pushes`.
        between: what is asked where there is no push: the potential without its bias. The rest as
            `Calculator`.

    Attributes:
        pushes: whether the next computation has a bias. False at all steps but each
            ``interval``-th makes a run one of multiple time steps.
    """

    def __init__(
        self,
        *arguments: Any,
        memory: float = 0.0,
        interval: int = 1,
        between: Potential | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.pushes = True
        self._between = None if between is None else prepared(between)
        self._interval = interval
        self._kept = math.exp(-1.0 / memory) if memory else 0.0
        self._mean: np.ndarray | None = None
        self._recalled = False
        self._push: np.ndarray | float = 0.0

    @property
    def mean_bias(self) -> Float[np.ndarray, "atoms 3"] | None:
        """The running mean, eV/Å, what `recall` takes; None where there is none."""
        return self._mean

    @property
    def push(self) -> Float[np.ndarray, "atoms 3"] | float:
        """What forces hold beside the potential's, eV/Å; 0 where there is no bias."""
        return self._push

    def recall(self, mean_bias: Float[np.ndarray, "atoms 3"] | None) -> None:
        """Takes up a running mean: it is the one of the next computation, if that has a bias."""
        self._mean, self._recalled = mean_bias, mean_bias is not None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert isinstance(self.results, Results)
        bias = self.results.get("forces_bias")
        if bias is not None and self._kept:
            if self._mean is None:
                self._mean = (1.0 - self._kept) * bias
            elif not self._recalled:
                self._mean = self._kept * self._mean + (1.0 - self._kept) * bias
            bias = self.results.own["forces_bias"] = self._mean
        self._recalled = False
        self._push = 0.0 if bias is None else self._interval * bias

    def _predict(self, graph: AtomGraph, stress: bool) -> Prediction:
        if self.pushes or self._between is None:
            return super()._predict(graph, stress)
        return self._between(graph, stress=stress)

    def get_forces(self, atoms: Atoms | None = None) -> Float[np.ndarray, "atoms 3"]:
        forces: np.ndarray = super().get_forces(atoms)
        return forces + self._push


def _results(prediction: Prediction) -> Results:
    results: dict[str, Any] = {}
    for of, value in prediction.figures():
        if of.internal:
            continue
        array = value.detach().cpu().numpy().astype(np.float64)
        found: Any = array if of.level == "atom" else array[0]
        if of.level == "frame" and not of.shape:
            found = float(found)
        elif "stress" in of.ase:
            found = full_3x3_to_voigt_6_stress(found)
        results |= dict.fromkeys(of.names, found)
    return Results(results, type(prediction))
