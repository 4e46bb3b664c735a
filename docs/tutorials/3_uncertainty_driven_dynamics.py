"""
Uncertainty-driven dynamics
===========================

A bias along the gradient of σ pushes a structure towards what the potential has not learned. Its
frames are those worth a label.
"""

# %%
# The parameters of the bias are proposed from the model's own σ and forces.
from pathlib import Path

import matplotlib.pyplot as plt
from ase.io import read

import eip
from eip.simulation import DynamicsSettings, propose_udd, run_dynamics

data = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir()) / "examples/data"
potential = eip.load("runs/ethanol/model.eip")
frames = read(data / "ethanol_300K_test.xyz", ":20")
proposal = propose_udd(potential, frames, temperature=300)
print(proposal.explain())

# %%
# Twice from the same start, with and without the bias (``eip md … --udd``).
settings = DynamicsSettings(steps=400, temperature=300, max_bond_stretch=None)
summaries = {}
for name, udd in (("MD", None), ("UDD", proposal)):
    folder = Path("runs") / name.lower()
    summaries[name] = run_dynamics(
        frames[0], potential, settings, folder, udd=udd, resume=True, progress=False
    )
    print(f"{name}: {summaries[name].reason}; mean σ {summaries[name].mean_uncertainty:.3f} eV/Å")

# %%
fig, ax = plt.subplots(figsize=(6, 3.2))
for name in summaries:
    trajectory = read(f"runs/{name.lower()}/trajectory.xyz", ":")
    sigma = potential.predict(trajectory).uncertainty
    ax.plot(range(len(sigma)), sigma, label=name)
ax.set_xlabel("frame of the trajectory")
ax.set_ylabel("σ, eV/Å")
ax.legend()
