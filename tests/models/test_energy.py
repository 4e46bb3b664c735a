from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from eip.errors import InputError
from eip.models.energy import EnergyModel
from eip.models.painn import PaiNN
from eip.neighbors import build_graph

#: Of the size of DFT totals; aspirin, C9H8O4, has −17,6xx eV.
E0 = {1: -13.5684222, 6: -1037.8538996, 8: -2042.7968694}


def model(seed: int = 0, **options: bool) -> EnergyModel:
    torch.manual_seed(seed)
    return EnergyModel(PaiNN(3, 16, 2, 8, 4.0), (1, 6, 8), E0, 0.7, **options)


def aspirin_like(seed: int) -> Atoms:
    """21 atoms in aspirin's numbers on a jiggled grid."""
    numbers = [6] * 9 + [1] * 8 + [8] * 4
    grid = [[1.4 * (i % 3), 1.4 * (i // 3 % 3), 1.4 * (i // 9)] for i in range(21)]
    atoms = Atoms(numbers=numbers, positions=grid)
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_the_energy_is_readout_plus_offsets() -> None:
    energy_model = model().double()
    graph = build_graph([molecule("H2O"), molecule("CH4")], 4.0)
    output = energy_model(graph)
    network = 0.7 * energy_model.readout(output.features.scalars)[:, 0]
    assert output.energy[0].item() == pytest.approx(
        network[:3].sum().item() + E0[8] + 2 * E0[1], abs=1e-9
    )
    assert output.energy[1].item() == pytest.approx(
        network[3:].sum().item() + E0[6] + 4 * E0[1], abs=1e-9
    )


def test_a_total_of_minus_17617_ev_costs_a_float32_network_nothing() -> None:
    """Differences of two geometries are the network's own, to less than 1 µeV."""
    with_offsets = model()
    without = copy.deepcopy(with_offsets)
    without._element_energies = {z: 0.0 for z in E0}
    graphs = [build_graph(aspirin_like(seed), 4.0) for seed in range(6)]
    with torch.no_grad():
        totals = torch.cat([with_offsets(g).energy for g in graphs])
        bare = torch.cat([without(g).energy for g in graphs])
    assert totals.dtype == torch.float64
    assert totals.mean() < -17_000
    differences = (totals - totals[0]) - (bare - bare[0])
    assert differences.abs().max() < 1e-6
    assert (bare - bare[0]).abs().max() > 1e-4


def test_offsets_survive_a_cast_to_float32_and_back() -> None:
    cast = model().to(torch.float32).to(torch.float64)
    assert cast.element_energies == E0


def test_the_table_cannot_be_changed_from_outside() -> None:
    energy_model = model()
    energy_model.element_energies[1] = 0.0
    assert energy_model.element_energies == E0


def test_a_foreign_element_is_named() -> None:
    graph = build_graph(Atoms("HNSi", [[0, 0, 0], [0, 0, 1], [0, 0, 2]]), 4.0)
    with pytest.raises(
        InputError, match="holds N, Si, which the potential was not made for; it knows H, C, O"
    ):
        model()(graph)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_elements_changed_within_an_array_are_seen(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    energy_model = model().to(device)
    graph = build_graph(Atoms("HCO", [[0, 0, 0], [0, 0, 1], [0, 0, 2]]), 4.0, device=device)
    assert energy_model.species(graph).tolist() == [0, 1, 2]
    assert energy_model.species(graph).tolist() == [0, 1, 2]
    graph.numbers[0] = 8
    assert energy_model.species(graph).tolist() == [2, 1, 2]
    graph.numbers[0] = 7
    with pytest.raises(InputError, match="holds N"):
        energy_model.species(graph)


def test_a_prediction_in_inference_mode_leaves_training_possible() -> None:
    energy_model = model()
    graph = build_graph(molecule("H2O"), 4.0)
    with torch.inference_mode():
        before = energy_model(graph).energy.item()
    energy = energy_model(graph).energy
    energy.sum().backward()
    assert energy.item() == pytest.approx(before, abs=1e-4)
    assert all(p.grad is not None for p in energy_model.readout.parameters())


def test_what_it_is_made_of_is_checked() -> None:
    backbone = PaiNN(3, 8, 1, 4, 4.0)
    with pytest.raises(ValueError, match=r"element_energies lacks \['O'\]"):
        EnergyModel(backbone, (1, 6, 8), {1: 0.0, 6: 0.0}, 1.0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="force_scale must be positive"):
            EnergyModel(backbone, (1, 6, 8), E0, scale)


def test_zbl_adds_its_repulsion() -> None:
    close = build_graph(Atoms("OO", [[0, 0, 0], [0, 0, 0.5]]), 4.0)
    plain, repelling = model(), model(zbl=True)
    repelling.load_state_dict(plain.state_dict())
    assert repelling(close).energy.item() > plain(close).energy.item() + 50.0
    far = build_graph(Atoms("OO", [[0, 0, 0], [0, 0, 1.3]]), 4.0)
    assert repelling(far).energy.item() == plain(far).energy.item()


def test_no_neighbors() -> None:
    energy_model = model().double()
    graph = build_graph(Atoms("H"), 4.0)
    assert energy_model(graph).energy.isfinite().all()


def test_a_graph_on_another_device_is_refused_by_name() -> None:
    """Also one of whose arrays a single one lies elsewhere: a kernel takes their addresses."""
    graph = build_graph(molecule("H2O"), 4.0)
    expected = (
        r"the graph's numbers are on 'meta', but the potential is on 'cpu'; graph\.to\('cpu'\)"
    )
    with pytest.raises(InputError, match=expected):
        model()(graph.to("meta"))
    with pytest.raises(InputError, match="graph's shifts are on 'meta'"):
        model()(replace(graph, shifts=graph.shifts.to("meta")))
