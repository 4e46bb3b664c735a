"""Our potentials keep the contract; potentials that are broken on purpose do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.kernels.radial import cosine_cutoff
from eip.models.backbone import AtomFeatures, Backbone
from eip.models.painn import PaiNN
from eip.models.short_range import ShortRangeSettings
from eip.neighbors import build_graph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction
from eip.simulation.bias import UDDParameters, UDDPotential
from eip.testing import (
    DERIVATIVE_LAWS,
    SYMMETRY_LAWS,
    ContractViolation,
    check_backbone,
    check_batching,
    check_beyond_cutoff,
    check_elements,
    check_forces,
    check_isolated_atoms,
    check_permutation,
    check_potential,
    check_precision,
    check_prediction,
    check_reflection,
    check_rotation,
    check_smoothness,
    check_stress,
    check_supercell,
    check_translation,
    check_uncertainty_gradient,
    check_wrapping,
    example_structures,
)
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration
from eip.uncertainty.evidential import EvidentialPotential

#: Beyond what the structures have: some of their pairs are closer.
SHORT_RANGE = ShortRangeSettings({(1, 1): 1.8, (1, 8): 1.1, (6, 8): 2.0})
INVARIANT_HEADS = ("tensor", "isotropic", "none", "global")


def random_potential(
    head: str = "tensor",
    elements: Sequence[int] = (1, 6, 8),
    *,
    gain: float = 1.5,
    zbl: bool = False,
    offset: float = 70.0,
    **network: object,
) -> EvidentialPotential:
    """Small, with weights made larger: forces of eV/Å, and a σ that differs between atoms."""
    torch.manual_seed(0)
    potential = EvidentialPotential(
        elements=elements,
        element_energies={z: -offset * z for z in elements},
        force_scale=1.3,
        head=head,
        channels=16,
        interactions=2,
        radial_functions=10,
        cutoff=4.5,
        zbl=zbl,
        **network,
    ).double()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(gain)
    return potential.eval()


def water_box() -> Atoms:
    """Three molecules in a cube whose edge is shorter than the cutoff."""
    box = Atoms(cell=np.eye(3) * 4.3, pbc=True)
    for i, angle in enumerate((10, 100, 230)):
        water = molecule("H2O")
        water.rotate(angle, (1, 0.4 * i, 0.2))
        water.positions += [0.3 + 2.1 * (i % 2), 0.5 + 2.3 * (i // 2), 0.4 + 1.3 * i]
        box += water
    return box


def structures() -> list[Atoms]:
    quartz_like = bulk("SiC", "zincblende", a=4.4)
    quartz_like.set_chemical_symbols(["C", "O"])
    quartz_like.rattle(0.1, seed=3)
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.05, seed=1)
    return [ethanol, water_box(), quartz_like, Atoms("O"), *example_structures((1, 6, 8), 4.5)]


# Ours.


@pytest.mark.parametrize(
    ("head", "zbl"), [("tensor", True), *((head, False) for head in INVARIANT_HEADS)]
)
def test_evidential_potentials_keep_the_contract(head: str, zbl: bool) -> None:
    potential = random_potential(head, zbl=zbl)
    prediction = potential.predict(structures()[0])
    assert prediction.forces is not None and prediction.forces.abs().max() > 0.3
    if head in ("tensor", "isotropic"):
        assert prediction.force_uncertainty is not None
        assert prediction.force_uncertainty.std() > 0.01
    check_potential(potential, structures())


@pytest.mark.parametrize("path", ["compiled", "plain"])
@pytest.mark.parametrize("head", ["tensor", "none"])
def test_cartesian_ace_keeps_the_contract(head: str, path: str) -> None:
    potential = random_potential(
        head, gain=1.1, backbone="cartesian_ace", mean_neighbors=30.0, short_range=SHORT_RANGE
    )
    with reference_path() if path == "plain" else nullcontext():
        prediction = potential.predict(structures()[0])
        assert prediction.forces is not None and prediction.forces.abs().max() > 0.3
        check_potential(potential, structures())


def test_the_covariance_of_the_tensor_head_has_directions() -> None:
    """Else its laws would hold trivially."""
    covariance = random_potential("tensor").predict(structures()[0]).force_covariance
    assert covariance is not None
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert (eigenvalues[:, 2] / eigenvalues[:, 0]).max() > 1.5


def test_float32_is_checked_in_float64() -> None:
    check_potential(random_potential("tensor").to(torch.float32))


def test_calibrated_potentials_keep_the_contract() -> None:
    calibration = Calibration(
        method="per_element",
        factor=1.7,
        element_factors={1: 0.4, 8: 2.0},
        interval_levels=(0.5, 0.9),
        interval_widths=(0.7, 1.8),
        n_frames=10,
        n_atoms=100,
        created="2026-01-01T00:00:00+00:00",
    )
    check_potential(CalibratedPotential(random_potential("tensor"), calibration))


def test_an_uncertainty_bias_keeps_the_contract_unless_limited_by_component() -> None:
    check_potential(UDDPotential(random_potential("tensor"), UDDParameters(5.0, 3.0, 1.0, 2.0)))
    each = UDDParameters(5.0, 3.0, 1.0, 2.0, limiter="component")
    biased = UDDPotential(random_potential("tensor"), each)
    found = violation(lambda: check_rotation(biased, structures()))
    assert found.quantity == "forces_bias"


def test_a_many_element_potential() -> None:
    check_potential(random_potential("tensor", tuple(range(1, 90, 5)), offset=1.0))


DATA_SETS = ("3bpa", "acac", "aspirin", "mptrj", "silica", "water")


def sample(folder: Path, name: str) -> list[Atoms]:
    """Two frames of one of the published sets, straight from its files."""
    if name == "silica":
        frames = []
        for topology in ("sod", "edi"):
            with np.load(folder / name / f"{topology}.npz", allow_pickle=False) as file:
                frames.append(
                    Atoms(
                        file["symbols"].tolist(),
                        positions=file["positions"][7].astype(float),
                        cell=file["cells"][7].astype(float),
                        pbc=True,
                    )
                )
        return frames
    if name == "water":
        water = folder / name / "data_0"
        symbols = [("O", "H")[int(t)] for t in (water / "type.raw").read_text().split()]
        positions = np.load(water / "set.000" / "coord.npy", allow_pickle=False)[3]
        cell = np.load(water / "set.000" / "box.npy", allow_pickle=False)[3]
        return [
            Atoms(
                symbols,
                positions=positions.reshape(-1, 3).astype(float),
                cell=cell.reshape(3, 3).astype(float),
                pbc=True,
            )
        ]
    file = {
        "3bpa": "train_mixedT.xyz",
        "acac": "test_MD_600K.xyz",
        "aspirin": "rmd17_aspirin_test.xyz",
        "mptrj": "mptrj-random-1k.xyz",
    }[name]
    frames = read(folder / name / file, "::30" if name == "mptrj" else "5:60:50")
    return [frame for frame in frames if len(frame) <= 40][:8]


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("head", INVARIANT_HEADS)
def test_symmetries_hold_on_real_structures(shared_data: Path, name: str, head: str) -> None:
    frames = sample(shared_data, name)
    elements = sorted({int(z) for frame in frames for z in frame.numbers})
    potential = random_potential(head, elements, gain=1.2, offset=150.0)
    for law in (check_rotation, check_reflection, check_translation, check_permutation):
        law(potential, frames, tolerance=1e-10)
    if head == "tensor" and name != "water":
        for law in (check_batching, check_wrapping, check_beyond_cutoff):
            law(potential, frames, tolerance=1e-10)


# The tests are tested: each broken potential violates the law that is about it, and no earlier
# one in a way that would hide what the law is worth.


class BiasedPaiNN(PaiNN):
    """A bias in a linear map of vectors, as in the code the paper came with."""

    def __init__(self, n_elements: int, channels: int) -> None:
        super().__init__(n_elements, channels, 2, 10, 4.5)

    def forward(self, graph: AtomGraph, species: Tensor, edge_vectors: Tensor) -> AtomFeatures:
        found = super().forward(graph, species, edge_vectors)
        assert found.vectors is not None
        vectors = found.vectors + 0.1
        return AtomFeatures(found.scalars + vectors.square().sum(dim=1).sqrt(), vectors)


def violation(check: Callable[[], None]) -> ContractViolation:
    with pytest.raises(ContractViolation) as caught:
        check()
    return caught.value


def test_a_bias_in_the_vector_maps_breaks_rotation() -> None:
    found = violation(lambda: check_backbone(BiasedPaiNN(3, 16).double(), (1, 6, 8)))
    assert found.law == "rotation"

    potential = random_potential("none")
    potential.energy_model.backbone = BiasedPaiNN(3, 16).double()
    for law in (check_rotation, check_reflection):
        found = violation(lambda law=law: law(potential, structures()))
        assert found.quantity == "energy"
        assert found.deviation is not None and found.allowed is not None
        assert found.deviation > 100 * found.allowed
    assert violation(lambda: check_potential(potential)).law == "rotation"
    # It is the same in every frame of reference that is only moved or reordered.
    check_translation(potential, structures())
    check_permutation(potential, structures())


def test_the_componentwise_head_breaks_rotation_of_the_uncertainty_alone() -> None:
    potential = random_potential("componentwise")
    found = violation(lambda: check_rotation(potential, structures()))
    assert (found.law, found.quantity) == ("rotation", "force_uncertainty")
    assert found.deviation is not None and found.deviation > 1e-3
    assert "force_uncertainty deviates by" in str(found) and "allowed are 1e-10" in str(found)
    assert violation(lambda: check_potential(potential)).law == "rotation"
    for law in (*SYMMETRY_LAWS, *DERIVATIVE_LAWS):
        if law not in (check_rotation, check_reflection):
            law(potential, structures()[:4])


class MirrorBlind(Backbone):
    """A pseudovector: turns with rotations, but a mirror image shows it the wrong way round."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.cutoff = 2, 4.5
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, graph: AtomGraph, species: Tensor, edge_vectors: Tensor) -> AtomFeatures:
        r = edge_vectors.norm(dim=1)
        envelope = cosine_cutoff(r, self.cutoff) ** 2
        zero = edge_vectors.new_zeros(graph.n_atoms, 3)
        one = zero.index_add(0, graph.centers, edge_vectors * envelope[:, None])
        two = zero.index_add(
            0, graph.centers, edge_vectors * (envelope * species[graph.neighbors])[:, None]
        )
        axial = torch.linalg.cross(one, two)
        return AtomFeatures(
            one.square().sum(1)[:, None] * self.weight, axial[:, :, None] * self.weight
        )


def test_a_pseudovector_breaks_reflection_but_not_rotation() -> None:
    found = violation(lambda: check_backbone(MirrorBlind(), (1, 6, 8)))
    assert (found.law, found.quantity) == ("reflection", "vectors")


class Pairs(Potential):
    """A pair repulsion with some σ: whole itself, and what the broken ones start from."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    @property
    def cutoff(self) -> float:
        return 4.5

    @property
    def elements(self) -> tuple[int, ...]:
        return (1, 8)

    def edge_vectors(self, graph: AtomGraph) -> Tensor:
        return graph.edge_vectors(self.strength.dtype)

    def pair(self, r: Tensor) -> Tensor:
        return torch.exp(-r) * cosine_cutoff(r, self.cutoff)

    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        return graph.sum_by_frame(per_atom.double() + self.offsets(graph))

    def offsets(self, graph: AtomGraph) -> Tensor:
        return -900.0 * graph.numbers.double()

    def signed(self, forces: Tensor) -> Tensor:
        return forces

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        if int(graph.numbers.max()) > 8:
            from eip.errors import InputError

            raise InputError(f"not {Atoms([int(graph.numbers.max())]).symbols}")
        from eip.models.derivatives import forces_and_stress, strained

        with torch.enable_grad():
            positions = graph.positions
            if not positions.requires_grad:
                positions = positions.detach().requires_grad_()
            bent, strain = strained(graph.with_positions(positions))
            r = self.edge_vectors(bent).square().sum(1).add(1e-30).sqrt()
            charge = bent.numbers.to(r.dtype).sqrt()
            weight = charge[bent.centers] * charge[bent.neighbors]
            per_atom = torch.zeros_like(charge).index_add(
                0, bent.centers, 0.5 * self.strength.to(r.dtype) * weight * self.pair(r)
            )
            energy = self.total(bent, per_atom)
            sigma = (per_atom.square() + 1e-4).sqrt()
            found, virial = forces_and_stress(
                energy, positions, strain, bent.cell, retain_graph=True, create_graph=False
            )
        prediction = Prediction(
            energy=energy,
            forces=self.signed(found) if forces else None,
            stress=virial if stress else None,
            force_uncertainty=sigma,
            uncertainty=graph.mean_by_frame(sigma),
        )
        return prediction if differentiable != "nothing" else prediction.detach()


def test_what_broken_potentials_start_from_is_whole() -> None:
    check_potential(Pairs())


class WrongSign(Pairs):
    def signed(self, forces: Tensor) -> Tensor:
        return -forces


class HardCutoff(Pairs):
    """The energy jumps."""

    def pair(self, r: Tensor) -> Tensor:
        return torch.exp(-r) * (r < self.cutoff)


class KinkedCutoff(Pairs):
    """The energy is continuous, the force jumps."""

    def pair(self, r: Tensor) -> Tensor:
        return torch.where(r < self.cutoff, torch.exp(-r) - np.exp(-self.cutoff), 0.0)


class FarSighted(Pairs):
    """Whatever edges there are, count."""

    def pair(self, r: Tensor) -> Tensor:
        return torch.exp(-r)


class Anchored(Pairs):
    """Knows where the origin is."""

    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        return super().total(graph, per_atom + 1e-3 * graph.positions.square().sum(1))


class Shiftless(Pairs):
    """Forgets that a neighbor may be a periodic image."""

    def edge_vectors(self, graph: AtomGraph) -> Tensor:
        return graph.positions[graph.neighbors] - graph.positions[graph.centers]


class FirstComesFirst(Pairs):
    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        rank = torch.arange(graph.n_atoms, device=per_atom.device)
        return super().total(graph, per_atom * (1 + 0.01 * (rank % 2)))


class Neighborly(Pairs):
    """Frames of a batch see each other."""

    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        return super().total(graph, per_atom * (1 + per_atom.mean()))


class Forgetful(Pairs):
    """σ of a prediction that was to be differentiable is cut off."""

    def forward(self, graph: AtomGraph, **options: object) -> Prediction:  # type: ignore[override]
        return super().forward(graph, **options).detach()  # type: ignore[arg-type]


class Brittle(Pairs):
    """The norm of an empty sum has no gradient."""

    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        pull = (
            torch.zeros_like(graph.positions).index_add(
                0,
                graph.centers,
                graph.edge_vectors()
                * cosine_cutoff(graph.edge_vectors().norm(dim=1), self.cutoff)[:, None],
            )
            + 0.0 * graph.positions
        )
        return super().total(graph, per_atom + pull.square().sum(1).sqrt())


class SinglePrecisionSum(Pairs):
    """−17,617 eV and the rest, added in the dtype of the network."""

    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        return graph.sum_by_frame(per_atom + self.offsets(graph).to(per_atom.dtype)).double()


class SinglePrecisionResult(Pairs):
    def total(self, graph: AtomGraph, per_atom: Tensor) -> Tensor:
        return super().total(graph, per_atom).float()


class WrongStress(Pairs):
    def forward(self, graph: AtomGraph, **options: object) -> Prediction:  # type: ignore[override]
        from dataclasses import replace

        prediction = super().forward(graph, **options)  # type: ignore[arg-type]
        if prediction.stress is None:
            return prediction
        return replace(prediction, stress=-prediction.stress)


class Permissive(Pairs):
    @property
    def elements(self) -> tuple[int, ...]:
        return (1,)


@pytest.mark.parametrize(
    ("broken", "law", "quantity"),
    [
        (WrongSign, check_forces, "forces"),
        (HardCutoff, check_smoothness, "energy"),
        (KinkedCutoff, check_smoothness, "forces"),
        (FarSighted, check_beyond_cutoff, "energy"),
        (Anchored, check_translation, "energy"),
        (Shiftless, check_wrapping, "energy"),
        (Shiftless, check_supercell, "energy"),
        (FirstComesFirst, check_permutation, "energy"),
        (Neighborly, check_batching, "energy"),
        (Forgetful, check_uncertainty_gradient, None),
        (Brittle, check_isolated_atoms, "forces"),
        (SinglePrecisionSum, check_precision, "energy"),
        (WrongStress, check_stress, "stress[xx]"),
    ],
)
def test_each_broken_potential_fails_its_law(
    broken: type[Pairs], law: Callable[..., None], quantity: str | None
) -> None:
    found = violation(lambda: law(broken(), example_structures((1, 8), 4.5)))
    assert found.law == law.__name__.removeprefix("check_")
    assert found.quantity == quantity
    violation(lambda: check_potential(broken()))


def test_a_float32_total_is_refused() -> None:
    found = violation(lambda: check_prediction(SinglePrecisionResult(), structures()[1:2]))
    assert "totals must be float64" in str(found)


def test_a_potential_that_takes_any_element_is_refused() -> None:
    class Anything(Pairs):
        def forward(self, graph: AtomGraph, **options: object) -> Prediction:  # type: ignore[override]
            return super().forward(
                AtomGraph(
                    **{
                        **{name: getattr(graph, name) for name in AtomGraph.__dataclass_fields__},
                        "numbers": graph.numbers.clamp(max=8),
                    }
                ),
                **options,  # type: ignore[arg-type]
            )

    assert "Og is predicted though" in str(violation(lambda: check_elements(Anything())))


def test_a_precise_sum_at_minus_17617_ev_passes_where_a_float32_sum_fails() -> None:
    frames = []
    for seed in range(6):
        pair = molecule("H2O")
        pair += pair.copy()
        pair.positions[3:] += [0.0, 2.6, 1.0]
        pair.rattle(0.05, seed=seed)
        frames.append(pair)
    assert Pairs().predict(frames).energy.max() < -17_617
    check_precision(Pairs(), frames)
    violation(lambda: check_precision(SinglePrecisionSum(), frames))


def test_example_structures_are_what_they_are_for() -> None:
    examples = example_structures((1, 6, 8), 5.0)
    assert any(len(a) == 1 and not a.pbc.any() for a in examples)
    assert any(a.pbc.all() and a.cell.lengths().min() < 5.0 for a in examples)
    assert any(a.pbc.any() and not a.pbc.all() for a in examples)
    assert any(np.linalg.det(a.cell.array) < 0 for a in examples)
    for atoms in examples:
        graph = build_graph(atoms, 5.0)
        if graph.n_edges:
            assert graph.edge_vectors().norm(dim=1).min() > 0.3
    again = example_structures((1, 6, 8), 5.0)
    assert all(
        np.array_equal(a.positions, b.positions) for a, b in zip(examples, again, strict=True)
    )
