"""What is known by a name; importing this imports nothing of it.

Packages of yours add to it by entry points:

    [project.entry-points."eip.methods"]
    mine = "my_package.method:MINE"                 # an `eip.uncertainty.methods.Method`

    [project.entry-points."eip.potentials"]
    mine = "my_package.potential:MyPotential"       # an `eip.uncertainty.registry.Describable`
"""

from eip.plugins import Registry

#: What `model.uncertainty` may be.
METHODS = Registry(
    "eip.methods",
    "method",
    {
        "tensor": "eip.uncertainty.evidential:TENSOR",
        "componentwise": "eip.uncertainty.evidential:COMPONENTWISE",
        "isotropic": "eip.uncertainty.evidential:ISOTROPIC",
        "global": "eip.uncertainty.evidential:GLOBAL",
        "mve": "eip.uncertainty.evidential:MVE",
        "ensemble": "eip.uncertainty.ensemble:ENSEMBLE",
        "shallow_ensemble": "eip.uncertainty.readout_ensemble:SHALLOW_ENSEMBLE",
        "dropout": "eip.uncertainty.readout_ensemble:DROPOUT",
        "llpr": "eip.uncertainty.readout_ensemble:LLPR",
        "gmm": "eip.uncertainty.mixture:GMM",
        "none": "eip.uncertainty.evidential:NONE",
        "attached": "eip.uncertainty.attached:ATTACHED",
    },
)

#: What a model file may hold.
POTENTIALS = Registry(
    "eip.potentials",
    "kind of potential",
    {
        "evidential": "eip.uncertainty.evidential:EvidentialPotential",
        "attached": "eip.uncertainty.attached:AttachedPotential",
        "readout_ensemble": "eip.uncertainty.readout_ensemble:ReadoutEnsemblePotential",
        "ensemble": "eip.uncertainty.ensemble:EnsemblePotential",
        "mixture": "eip.uncertainty.mixture:MixturePotential",
        "latent_distance": "eip.uncertainty.latent_distance:LatentDistancePotential",
        "energy_error": "eip.uncertainty.energy_error:EnergyErrorPotential",
        "calibrated": "eip.uncertainty.calibrated:CalibratedPotential",
    },
)
