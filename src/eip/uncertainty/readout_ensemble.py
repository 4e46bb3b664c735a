"""Many last layers on one network: shallow ensemble, MC dropout and the last layer's posterior.

The readout's last layer turns hidden units h_i into an atom's energy, w · h_i. Members differ by
δ_k, Σ_k δ_k = 0, in that layer alone, so energy and forces are those of w and the spread of the
members' forces, one backward pass for each, is the uncertainty. Three ways to come by δ:

    shallow ensemble   trained, by the likelihood of forces under the spread (Kellner and Ceriotti
                       2024)
    dropout            w ∘ (mask_k/(1−p) − 1), masks drawn once, so that the energy stays smooth
                       (Gal and Ghahramani 2016); training leaves hidden units out at random
    LLPR               drawn from the last layer's posterior, N(0, (Σ JᵀJ + ς²)⁻¹), J the Jacobian
                       of the training forces in w (Bigi et al. 2024)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.errors import InputError, did_you_mean
from eip.graph import AtomGraph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction
from eip.uncertainty.ensemble import sample_covariance
from eip.uncertainty.evidence import GaussianEvidence, NoEvidence
from eip.uncertainty.evidential import NONE, EvidentialPotential
from eip.uncertainty.methods import Fit, Method
from eip.uncertainty.network import ForwardPass, NetworkPotential

Origin = Literal["shallow_ensemble", "dropout", "llpr"]

#: Probability that dropout leaves a hidden unit out.
DROPPED = 0.1

#: ς² of the posterior, as a share of the mean of the diagonal of Σ JᵀJ.
_RIDGE = 1e-4


class ReadoutEnsemblePotential(NetworkPotential):
    """One network, several last layers; see the module.

    Args:
        origin: where δ comes from.
        members: how many last layers.
        network: elements, their energies, sizes: see `NetworkPotential`.

    Raises:
        InputError: if the origin is unknown or there are fewer than two members.
    """

    kind: ClassVar[str] = "readout_ensemble"

    def __init__(self, *, origin: Origin, members: int, **network: Any) -> None:
        super().__init__(**network, dropout=DROPPED if origin == "dropout" else 0.0)
        if origin not in get_args(Origin):
            raise InputError(f"unknown origin '{origin}': {did_you_mean(origin, get_args(Origin))}")
        if members < 2:
            raise InputError(f"an ensemble of last layers needs two members, got {members}")
        self.origin: Origin = origin
        last = self._readout[-1]
        assert isinstance(last, nn.Linear)
        spread = torch.randn(members, last.in_features) / math.sqrt(last.in_features)
        if origin == "shallow_ensemble":
            self.deviations = nn.Parameter(spread)
        else:
            self.register_buffer("deviations", spread)
        if origin == "dropout":
            masks = torch.rand(members, last.in_features) >= DROPPED
            self.register_buffer("masks", masks / (1.0 - DROPPED) - 1.0)

    @property
    def _readout(self) -> nn.Sequential:
        readout = self.energy_model.readout
        if readout is None:
            raise InputError(
                f"an ensemble of last layers needs a readout, and the backbone "
                f"{self.backbone_settings.name} has energies of its own"
            )
        return readout

    def member_deviations(self) -> Float[Tensor, "members hidden"]:
        """δ of each member; they sum to zero."""
        deviations: Tensor = self.deviations
        if self.origin == "dropout":
            deviations = self.masks * self._readout[-1].weight  # type: ignore[operator]
        return deviations - deviations.mean(dim=0)

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        members = len(self.deviations)
        return {**super().settings(), "origin": self.origin, "members": members}

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        # σ is made of forces: it needs their pass, and its gradient a gradient of theirs.
        attached = differentiable != "nothing"
        inside: Differentiable = "everything" if attached else "nothing"
        learning = self.training and self.origin == "dropout"
        with self.run(graph, forces=True, stress=stress, differentiable=inside) as run:
            energy = run.output.energy
            evidence: GaussianEvidence | NoEvidence = NoEvidence(self.energy_model.force_scale)
            if not learning:
                away = torch.stack(self._forces_of_members(run, create_graph=attached))
                evidence = GaussianEvidence(
                    self.energy_model.force_scale,
                    sample_covariance(away / self.energy_model.force_scale),
                )
            force, virial = run.forces_and_stress(
                energy, retain_graph=attached, create_graph=attached
            )
            moments = evidence.moments()
            features, repulsion = run.output.features.invariants(), run.repulsion()
        prediction = Prediction(
            energy=energy,
            forces=force if forces else None,
            stress=virial,
            energies=run.output.by_atom,
            features=features,
            # Masks are not trained: the spread is no likelihood.
            evidence=evidence if self.origin == "shallow_ensemble" else NoEvidence(evidence.scale),
            **repulsion,
        ).with_uncertainty(graph, **vars(moments))
        return prediction if attached else prediction.detach()

    def _forces_of_members(self, run: ForwardPass, *, create_graph: bool) -> list[Tensor]:
        """What each member's forces are beyond those of w."""
        hidden = self._readout[:-1](run.output.features.scalars)
        energies = self.energy_model.force_scale * (hidden @ self.member_deviations().T).sum(dim=0)
        away: list[Tensor] = []
        for energy in energies[:-1]:
            (gradient,) = torch.autograd.grad(
                energy, run.positions, retain_graph=True, create_graph=create_graph
            )
            away.append(-gradient)
        # They sum to zero: the last one is free.
        return [*away, -torch.stack(away).sum(dim=0)]


def fit_llpr(
    potential: EvidentialPotential, training: Sequence[AtomGraph], members: int, seed: int = 0
) -> ReadoutEnsemblePotential:
    """Last layers drawn from the posterior given the training forces; needs no label.

    Args:
        potential: trained; its evidence, if it has any, is left behind.
        training: graphs that it was trained on.
        members: how many to draw.

    Raises:
        InputError: if there is no training graph.
    """
    if not training:
        raise InputError("the last layer's posterior needs training frames, got none")
    settings = {k: v for k, v in potential.settings().items() if k != "head"}
    made = ReadoutEnsemblePotential.from_settings(
        {**settings, "origin": "llpr", "members": members}
    ).to(device=potential.device, dtype=potential.dtype)
    made.energy_model.load_state_dict(potential.energy_model.state_dict())
    made.eval().requires_grad_(False)
    width = made.deviations.shape[1]
    precision = torch.zeros(width, width, dtype=torch.float64)
    for graph in training:
        with made.run(graph, forces=True, stress=False, differentiable="nothing") as run:
            hidden = made._readout[:-1](run.output.features.scalars).sum(dim=0)
            columns = [
                torch.autograd.grad(unit, run.positions, retain_graph=True)[0].reshape(-1)
                for unit in hidden
            ]
        jacobian = torch.stack(columns, dim=1).double().cpu()
        precision += jacobian.T @ jacobian
    precision += _RIDGE * precision.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    lower = torch.linalg.cholesky(precision)
    normal = torch.randn(
        members, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    drawn = torch.linalg.solve_triangular(lower.T, normal.T, upper=True).T
    # The size is the calibration's; errors of about a hundredth of the forces are a start.
    made.deviations.copy_(drawn * math.sqrt(sum(3 * g.n_atoms for g in training)) * 0.01)
    return made


def _fit_llpr(network: Potential, fit: Fit) -> ReadoutEnsemblePotential:
    assert isinstance(network, EvidentialPotential)
    return fit_llpr(network, fit.training(), fit.members, fit.seed)


SHALLOW_ENSEMBLE = Method(
    about="several last layers, trained together",
    network=partial(ReadoutEnsemblePotential, origin="shallow_ensemble"),
    members=4,
)
DROPOUT = Method(
    about="last layers with units left out",
    network=partial(ReadoutEnsemblePotential, origin="dropout"),
    members=8,
)
LLPR = Method(
    about="last layers from the posterior, after training",
    network=NONE.network,
    fit=_fit_llpr,
    members=8,
    starts_from="plain",
)
