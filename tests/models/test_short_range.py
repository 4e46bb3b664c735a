"""Below the closest approach in training: the network is not asked, and the nuclei repel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.models import short_range
from eip.models.backbone import AtomFeatures, Backbone
from eip.models.energy import EnergyModel
from eip.models.short_range import ShortRange, ShortRangeSettings
from eip.models.zbl import screened_repulsion
from eip.neighbors import build_graph
from eip.testing import scan_bonds
from eip.uncertainty.evidential import EvidentialPotential

B, CUTOFF = 0.9, 3.0
SETTINGS = ShortRangeSettings({(1, 1): 1.3, (1, 8): B, (8, 8): 2.3})
A = (1 - SETTINGS.width) * B


class Hole(Backbone):
    """A pair energy that begins to fall steeply, and without end, below ``edge``."""

    def __init__(self, edge: float = 0.8 * B) -> None:
        super().__init__()
        self.channels, self.cutoff, self.edge = 2, CUTOFF, edge
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, graph: AtomGraph, species: Tensor, edge_vectors: Tensor) -> AtomFeatures:
        r = edge_vectors.norm(dim=1)
        pair = 6.0 * (r - 1.0) ** 2 * (1 - r / CUTOFF) ** 3
        pair = pair - 4e3 * (self.edge - r).clamp(min=0.0) ** 2
        energy = torch.zeros(graph.n_atoms, dtype=r.dtype).index_add(0, graph.centers, 0.5 * pair)
        return AtomFeatures(energy[:, None] * self.weight, None)


class Direct(nn.Module):
    """In place of a readout: the first feature."""

    def forward(self, scalars: Tensor) -> Tensor:
        return scalars[:, :1]


def model(settings: ShortRangeSettings | None = SETTINGS, edge: float = 0.8 * B) -> EnergyModel:
    made = EnergyModel(Hole(edge), (1, 8), {1: 0.0, 8: 0.0}, 1.0, short_range=settings)
    made.readout = Direct()  # type: ignore[assignment]
    return made.double()


def along(made: EnergyModel, r: float, orders: int = 2) -> list[float]:
    """Energy of O–H and its derivatives in the distance."""
    distance = torch.tensor(r, dtype=torch.float64, requires_grad=True)
    graph = build_graph(Atoms("OH", [[0, 0, 0], [0, 0, r]]), CUTOFF)
    zero = torch.zeros((), dtype=torch.float64)
    moved = torch.stack([zero, zero, distance])
    graph = graph.with_positions(torch.stack([torch.zeros(3, dtype=torch.float64), moved]))
    value = made(graph).energy.sum()
    found = [value.item()]
    for _ in range(orders):
        (value,) = torch.autograd.grad(value, distance, create_graph=True)
        found.append(value.item())
    return found


def repulsion(r: float) -> tuple[float, float]:
    z_i, z_j, distance = torch.tensor([[8.0], [1.0], [r]], dtype=torch.float64)
    value, steepness = screened_repulsion(z_i, z_j, distance)
    return value.item(), steepness.item()


def test_what_training_showed_stays_what_it_was() -> None:
    plain, guarded = model(None), model()
    for r in (B, B + 1e-12, 1.0, 2.9):
        assert along(guarded, r) == along(plain, r)


@pytest.mark.parametrize("edge", [A, B])
def test_three_derivatives_are_continuous(edge: float) -> None:
    made, h = model(edge=0.0), 1e-7
    below, above = along(made, edge - h, 3), along(made, edge + h, 3)
    for value, other, steepest in zip(below, above, (1e2, 1e3, 1e4, 1e6), strict=True):
        assert value == pytest.approx(other, abs=2 * h * steepest)


@pytest.mark.parametrize("r", [0.1, 0.4, A - 0.01, A + 0.05, B - 0.05, B - 1e-3])
def test_the_slope_is_that_of_central_differences(r: float) -> None:
    made, h = model(), 1e-5
    slope = (along(made, r + h)[0] - along(made, r - h)[0]) / (2 * h)
    assert along(made, r)[1] == pytest.approx(slope, rel=1e-6)


def test_far_below_there_is_the_repulsion_of_the_nuclei_alone() -> None:
    made = model()
    for r in (0.05, 0.3, A - 0.02):
        assert along(made, r)[1] == pytest.approx(-repulsion(r)[1], rel=1e-9)
    difference = along(made, 0.2)[0] - along(made, 0.5)[0]
    assert difference == pytest.approx(repulsion(0.2)[0] - repulsion(0.5)[0], rel=1e-9)


def test_a_hole_of_the_network_is_not_fallen_into() -> None:
    water = Atoms("OHH", [[0, 0, 0], [0, 0, 0.97], [0.94, 0, -0.24]])
    holes = EvidentialPotential(
        elements=[1, 8], element_energies={1: 0.0, 8: 0.0}, force_scale=1.0, head="none",
        backbone="painn", channels=8, interactions=1, cutoff=CUTOFF,
    ).double()  # fmt: skip
    for settings, falls in ((None, True), (SETTINGS, False)):
        holes.energy_model = model(settings)
        scans = scan_bonds(holes, water, np.linspace(0.3, 1.1, 81))
        assert len(scans) == 2
        for scan in scans:
            assert (np.diff(scan.energies[scan.factors < 0.95]).max() > 0) == falls
            assert any(factor < 0.9 for factor in scan.false_minima) == falls


def test_the_force_is_never_less_than_a_share_of_the_repulsion() -> None:
    plain, guarded = model(None, edge=0.0), model(edge=0.0)
    module = guarded.short_range
    assert module is not None
    for r in np.linspace(0.2, B, 40):
        s, share = module._told(torch.tensor([r]).double(), torch.tensor([B]).double())
        least = -share.item() * along(plain, s.item())[1]
        least += (1 - share.item()) * repulsion(s.item())[1]
        assert -along(guarded, float(r))[1] >= least - 1e-9


def test_without_close_atoms_nothing_is_done() -> None:
    graph = build_graph(Atoms("OHH", [[0, 0, 0], [0, 0, 0.97], [0.94, 0, -0.24]]), CUTOFF)
    module = ShortRange(SETTINGS, (1, 8), CUTOFF)
    vectors = graph.edge_vectors()
    told, approach = module(graph, (graph.numbers == 8).long(), vectors)
    assert told is vectors and approach is None
    alone = build_graph(Atoms("H"), CUTOFF)
    assert module(alone, torch.zeros(1, dtype=torch.long), alone.edge_vectors())[1] is None


def crowd() -> AtomGraph:
    """Some pairs too close, some not; images of the second structure among them."""
    rng = np.random.default_rng(0)
    loose = Atoms("OHHOH", rng.random((5, 3)) * 2.2)
    dense = Atoms("OH", [[0, 0, 0], [0.5, 0.4, 0.3]], cell=np.eye(3) * 1.8, pbc=True)
    return build_graph([loose, dense], CUTOFF)


def test_all_edges_at_once_is_the_same_as_the_close_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU does not ask which are close."""
    graph, module = crowd(), ShortRange(SETTINGS, (1, 8), CUTOFF)
    species, vectors = (graph.numbers == 8).long(), graph.edge_vectors()
    some, one = module(graph, species, vectors)

    def everything(vectors: Tensor, *_: Tensor) -> Tensor:
        return torch.ones(len(vectors), dtype=torch.bool)

    monkeypatch.setattr(short_range, "closer_than", everything)
    whole, all_ = module(graph, species, vectors)
    assert one is not None and all_ is not None
    assert 0 < len(one.centers) < len(all_.centers) == graph.n_edges
    torch.testing.assert_close(some, whole)
    torch.testing.assert_close(one.energy, all_.energy)
    torch.testing.assert_close(one.covariance(), all_.covariance())
    # Above 1 below the closest approach; a pair that is not close says less than 1.
    grade = one.grade()
    assert bool((grade[one.centers] > 1).all())
    torch.testing.assert_close(grade[grade > 0], all_.grade()[grade > 0])
    assert bool((all_.grade()[grade == 0] <= 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_finds_what_plain_pytorch_finds(dtype: torch.dtype) -> None:
    graph, module = crowd(), ShortRange(SETTINGS, (1, 8), CUTOFF)
    ends, species = (graph.centers, graph.neighbors), (graph.numbers == 8).long()
    vectors, limits = graph.edge_vectors(dtype), module.begins.to(dtype)
    found = short_range.closer_than(vectors, species, *ends, limits)
    with reference_path():
        expected = short_range.closer_than(vectors, species, *ends, limits)
    assert torch.equal(found, expected) and 0 < int(found.sum()) < graph.n_edges
    none = short_range.closer_than(vectors[:0], species, ends[0][:0], ends[1][:0], limits)
    assert none.shape == (0,)


# Where the data begin.


def test_pairs_that_meet_often_begin_where_they_were_seen() -> None:
    approaches = {(1, 1): (1.3, 400), (1, 8): (0.9, 250), (8, 8): (2.4, 99)}
    found = ShortRangeSettings.of_frames(approaches, 400)
    assert found.closest == {(1, 1): 1.3, (1, 8): 0.9}
    # Half of a few frames will do.
    assert (8, 8) in ShortRangeSettings.of_frames(approaches, 198).closest
    # And what was seen is always left to the network.
    assert ShortRangeSettings.of_frames({(8, 8): (0.6, 1)}, 400).closest == {(8, 8): 0.6}


def test_others_begin_at_a_share_of_their_radii_and_within_the_cutoff() -> None:
    settings = ShortRangeSettings({(1, 8): 0.9})
    assert settings.begin((8, 1), 3.0) == 0.9
    assert settings.begin((8, 8), 3.0) == pytest.approx(1.5 * covalent_radii[8])
    assert settings.begin((55, 55), 3.0) == 3.0


def test_settings_survive_a_file() -> None:
    settings = ShortRangeSettings({(1, 8): 0.9, (8, 14): 1.5}, 0.7, 0.2)
    written = settings.to_dict()
    assert written["closest"] == {"H-O": 0.9, "O-Si": 1.5}
    assert ShortRangeSettings.from_dict(written) == settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShortRangeSettings({}, share=0.0), "share must be between 0 and 1"),
        (lambda: ShortRangeSettings({}, width=1.0), "width must be between 0 and 1"),
        (lambda: ShortRangeSettings({(1, 8): -1.0}), "closest approach of H-O must be positive"),
        (lambda: ShortRangeSettings({(1, 8): math.nan}), "closest approach of H-O must be"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_that_was_trained_elsewhere_is_always_asked() -> None:
    class Elsewhere(Hole):
        trainable = False

    made = EnergyModel(Elsewhere(), (1, 8), {1: 0.0, 8: 0.0}, 1.0, short_range=SETTINGS)
    assert made.short_range is None
