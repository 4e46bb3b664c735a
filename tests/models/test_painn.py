from __future__ import annotations

import torch
from ase import Atoms
from ase.build import molecule

from eip.kernels.features import norm
from eip.models.backbone import AtomFeatures
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
from eip.testing import check_backbone


def features(backbone: PaiNN, atoms: Atoms) -> AtomFeatures:
    graph = build_graph(atoms, backbone.cutoff)
    species = (graph.numbers > 1).long()
    return backbone(graph, species, graph.edge_vectors(backbone.embedding.weight.dtype))


def test_it_keeps_the_laws_of_a_backbone() -> None:
    for interactions, cutoff in [(1, 4.0), (3, 5.0)]:
        torch.manual_seed(interactions)
        backbone = PaiNN(2, 12, interactions, 8, cutoff)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.mul_(1.5)
        check_backbone(backbone, elements=(1, 8))


def test_check_backbone_takes_a_factory() -> None:
    torch.manual_seed(0)
    check_backbone(lambda: PaiNN(2, 8, 2, 6, 4.0), elements=(6, 14))


def test_shapes_and_dtype_follow_the_network() -> None:
    backbone = PaiNN(2, 16, 2, 8, 4.0)
    out = features(backbone, molecule("H2O"))
    assert out.scalars.shape == (3, 16) and out.vectors.shape == (3, 3, 16)
    assert out.scalars.dtype == torch.float32
    assert backbone.channels == 16


def test_vector_maps_have_no_bias() -> None:
    assert not [name for name, _ in PaiNN(2, 8).named_parameters() if "mix.bias" in name]


def test_an_isolated_atom_has_no_vector_and_a_finite_gradient_in_every_weight() -> None:
    torch.manual_seed(0)
    backbone = PaiNN(2, 8, 2, 6, 4.0)
    out = features(backbone, Atoms("H"))
    assert out.vectors.abs().max() == 0.0
    (out.scalars.square().sum() + norm(out.vectors).sum()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def test_elements_and_surroundings_make_a_difference() -> None:
    torch.manual_seed(0)
    backbone = PaiNN(2, 8, 2, 6, 4.0)
    out = features(backbone, Atoms("OHH", [[0, 0, 0], [0, 0, 1.0], [0, 1.3, 0]]))
    scalars = out.scalars
    assert (scalars[1] - scalars[2]).abs().max() > 1e-4
    assert (scalars[0] - scalars[1]).abs().max() > 1e-2
    assert out.vectors.abs().max() > 1e-4


def test_the_norm_is_a_length_that_can_be_differentiated_at_zero() -> None:
    vectors = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]]).double()[None].requires_grad_()
    lengths = norm(vectors)
    torch.testing.assert_close(lengths[0, 0].item(), 5.0, rtol=1e-8, atol=0)
    (gradient,) = torch.autograd.grad(lengths.sum(), [vectors])
    assert gradient[0, :, 1].abs().max() == 0.0
    torch.testing.assert_close(gradient[0, :, 0], torch.tensor([0.6, 0.8, 0.0]).double())
