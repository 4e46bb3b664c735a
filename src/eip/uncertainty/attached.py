"""Evidence for a network that was trained elsewhere and is left as it is.

    symbol    meaning
    x_i       invariants of atom i: their first principal components over the training atoms, in
              units of their spread
    f_i       the force that the network itself predicts, eV/Å
    l_i       log (|f_i|² + ε²)^½ / s, s the RMS of the training forces, ε a hundredth of it
    c_i       −3 … 3: linear in the first eight of x_i, bounded; so are ν, α and w_i
    B_i       exp(a + b l_i + c_i) · (1 + w_i u_i u_iᵀ), u_i = f_i / (|f_i|² + ε²)^½

Where a network errs most its forces are large, and more along them than across: f_i says more of
the error than all features that the energy is read from. An MLP that reads them all and the force
ranks materials that it was not trained on worse than the force alone does; eight components, read
linearly, do not (`experiments/backbones`). What they can add is bounded, so that far from the
training atoms σ follows the force and the latent distance (`eip.uncertainty.latent_distance`),
which is put round this.

The network's weights are not among those of the potential (`eip.backbones`), until they are trained
on (`AttachedPotential.thawed`). Then the head learns beside it from what it says, but what the head
reads is not differentiated: a force would else be bent towards the σ that suits its error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.backbones.frozen import FrozenBackbone
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels.features import positive
from eip.potential import Differentiable
from eip.prediction import Prediction
from eip.uncertainty.evidence import TensorEvidence
from eip.uncertainty.methods import Method
from eip.uncertainty.network import NetworkPotential

#: ε, of the RMS force.
SMALLEST = 0.01
#: σ goes with the evidence and, by its root, with the distance of an atom and its neighbors from
#: the training atoms. Fitted on frames like the training frames, the powers come out too small for
#: what is far away; this one costs little at home, and on hot crystals σ grows as errors do
#: (`experiments/backbones`).
POWERS = (1.0, 0.0, 0.5)
#: By how much the components can change log B, and how many spreads from the mean they are read.
BOUND = 3.0
#: Principal components that distances are measured in, and those that the head reads. Of the spread
#: of more, a few hundred training atoms say nothing.
COMPONENTS, TOLD = 64, 8


class ForceHead(nn.Module):
    """Components of the invariants, and the predicted force → evidence; see the module.

    Args:
        channels: width of the invariants.
        scale: s, eV/Å.
        told: components that it reads, at most.
    """

    center: Tensor
    projection: Tensor

    def __init__(self, channels: int, scale: float, told: int = TOLD) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("projection", torch.eye(channels, min(COMPONENTS, channels)))
        self.out = nn.Linear(min(told, COMPONENTS, channels), 4)
        self.of_force = nn.Parameter(torch.tensor([-2.0, 1.0]))

    @torch.no_grad()
    def standardize(self, invariants: Float[Tensor, "atoms channels"]) -> None:
        """Takes the principal components from training atoms, each invariant by its spread."""
        values = invariants.double()
        center, spread = values.mean(dim=0), values.std(dim=0).clamp(min=1e-6)
        scaled = (values - center) / spread
        sizes, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        count = self.projection.shape[1]
        # The largest first. What hardly varies is mostly rounding, and is not blown up.
        directions, sizes = directions.flip(1)[:, :count], sizes.flip(0)[:count].clamp(min=1e-3)
        self.center.copy_(center)
        self.projection.copy_(directions / sizes.sqrt() / spread[:, None])

    def components(
        self, invariants: Float[Tensor, "atoms channels"]
    ) -> Float[Tensor, "atoms components"]:
        """x_i."""
        return (invariants - self.center) @ self.projection

    def forward(
        self, components: Float[Tensor, "atoms components"], forces: Float[Tensor, "atoms 3"]
    ) -> TensorEvidence:
        small = SMALLEST * self.scale
        size = (forces.square().sum(dim=1) + small**2).sqrt()
        of_size = (size / self.scale).log()
        told = bounded(components[:, : self.out.in_features])
        change, along, nu, excess = bounded(self.out(told)).unbind(dim=1)
        level = (self.of_force[0] + self.of_force[1] * of_size + change).exp()
        directions = (forces / size[:, None]).double()
        identity = torch.eye(3, dtype=torch.float64, device=forces.device)
        lengthwise = directions[:, :, None] * directions[:, None, :]
        shape = identity + positive(along).double()[:, None, None] * lengthwise
        beta = level.double()[:, None, None] * shape
        return TensorEvidence(self.scale, positive(nu), 1.0 + positive(excess), beta)


def bounded(value: Tensor) -> Tensor:
    """The same near 0, never beyond ± `BOUND`, smooth."""
    return BOUND * torch.tanh(value / BOUND)


class AttachedPotential(NetworkPotential):
    """A network that was trained elsewhere, with energies of its own, and a `ForceHead`.

    Args:
        network: elements; energies of them that are added to the network's own, which are of
            another level of theory; force scale, backbone: see `NetworkPotential`.

    Raises:
        InputError: if the backbone has no energies of its own.
    """

    kind: ClassVar[str] = "attached"

    def __init__(self, **network: Any) -> None:
        super().__init__(**network)
        backbone = self.energy_model.backbone
        if not backbone.own_energy:
            raise InputError(
                f"the backbone {self.backbone_settings.name} is one that eIP trains; attach is for "
                "networks that were trained elsewhere and have energies of their own"
            )
        vectors = 0 if backbone.vector_channels == 0 else backbone.channels
        self.head = ForceHead(backbone.channels + vectors, self.energy_model.force_scale)
        # By its positions, what the network said of a graph, held so that their id is their own.
        self._kept: dict[int, tuple[AtomGraph, Prediction]] | None = None

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able; of the network's, where they are to be found."""
        described = super().settings()
        keys = ["elements", "force_scale", "backbone"]
        if self._moves_energies:
            keys.append("element_energies")
        return {key: described[key] for key in keys}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> AttachedPotential:
        """Built again, with a head of fresh weights.

        Raises:
            InputError: if the network's package is not installed, or another, or its weights are.
        """
        given = settings.get("element_energies") or dict.fromkeys(settings["elements"], 0.0)
        return cls(**{**settings, "element_energies": {int(z): e for z, e in given.items()}})

    @property
    def _moves_energies(self) -> bool:
        return any(self.energy_model.element_energies.values())

    @torch.no_grad()
    def thawed(self, energies: Mapping[int, float] | None = None) -> AttachedPotential:
        """A copy whose network is trained from now on, and kept in a model file.

        Args:
            energies: of elements, eV, that are added to what the network says; None: the same.

        Raises:
            InputError: if the network's package cannot make it anew.
        """
        model = self.energy_model
        found = model.backbone
        if not isinstance(found, FrozenBackbone):
            raise InputError(
                f"the backbone {self.backbone_settings.name} cannot be fine-tuned: it is no "
                "FrozenBackbone"
            )
        made = AttachedPotential(
            elements=self.elements,
            element_energies=model.element_energies if energies is None else energies,
            force_scale=model.force_scale,
            backbone=self.backbone_settings.thawed(found),
        ).to(device=self.device, dtype=self.dtype)
        theirs = made.energy_model.backbone
        assert isinstance(theirs, FrozenBackbone)
        theirs.network.load_state_dict(found.network.state_dict())
        made.head.load_state_dict(self.head.state_dict())
        return made.eval()

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        later = differentiable != "nothing"
        found = self.asked(graph, stress=stress, differentiable=differentiable)
        assert found.features is not None and found.forces is not None
        with torch.set_grad_enabled(later):
            read = found.features, found.forces
            if self.training:
                read = found.features.detach(), found.forces.detach()
            components = self.head.components(read[0])
            evidence = self.head(components, read[1])
            moments = evidence.moments()
        said = replace(
            found,
            evidence=evidence,
            features=components,
            forces=found.forces if forces else None,
        )
        said = said.with_uncertainty(graph, **vars(moments))
        return said if later else said.detach()

    def asked(
        self, graph: AtomGraph, *, stress: bool = False, differentiable: Differentiable = "nothing"
    ) -> Prediction:
        """What the network itself says: energy and forces, its invariants as features."""
        later = differentiable != "nothing"
        keep = self._kept is not None and not later and not stress
        if self._kept is not None and keep and id(graph.positions) in self._kept:
            return self._kept[id(graph.positions)][1]
        # σ is read from the force: to differentiate it, the energy is differentiated twice.
        with self.run(graph, forces=True, stress=stress, differentiable=differentiable) as run:
            force, virial = run.forces_and_stress(
                run.output.energy, retain_graph=later, create_graph=later
            )
            energy = run.output.energy
            if self._moves_energies:
                moved = self.energy_model.offsets(self.energy_model.species(graph))
                energy = energy + graph.sum_by_frame(moved)
            found = Prediction(
                energy=energy,
                forces=force,
                stress=virial,
                features=run.output.features.invariants(),
            )
        found = found if later else found.detach()
        if self._kept is not None and keep:
            self._kept[id(graph.positions)] = graph, found
        return found

    @contextmanager
    def remembering(self, known: Iterable[tuple[AtomGraph, Prediction]] = ()) -> Iterator[None]:
        """Inside, the network is asked once of each graph, and only the head again.

        Args:
            known: graphs that it need not be asked of, and what it says (`asked`) of them.
        """
        self._kept = {id(graph.positions): (graph, said) for graph, said in known}
        try:
            yield
        finally:
            self._kept = None


def _attached(*, members: int, **network: Any) -> AttachedPotential:
    return AttachedPotential(**network)


#: What training goes on with that begins with an attached model.
ATTACHED = Method(
    about="that of eip attach, of networks that others trained",
    network=_attached,
    latent_distance=POWERS,
    energy_error=False,
    foreign=True,
)
