"""
A simulation that stops itself
==============================

Dynamics at a temperature that the potential was not trained for leaves what it knows. A bound on σ
ends the run before the forces are nonsense.
"""

# %%
# The model is that of the first tutorial. What σ is usual? The test frames say.
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.io import read

import eip
from eip.simulation import DynamicsSettings, run_dynamics

data = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir()) / "examples/data"
potential = eip.load("runs/ethanol/model.eip")
frames = read(data / "ethanol_300K_test.xyz", ":")
usual = np.quantile(potential.predict(frames).uncertainty.numpy(), 0.99)
print(f"99 % of the test frames have a σ below {usual:.3f} eV/Å")

# %%
# The same as ``eip md MODEL START --temperature … --max-uncertainty …``.
runs = {}
for temperature in (300, 1500):
    settings = DynamicsSettings(
        steps=400, temperature=temperature, max_uncertainty=2 * usual, max_bond_stretch=None
    )
    folder = Path(f"runs/md{temperature}")
    if not (folder / "summary.json").exists():
        run_dynamics(frames[0], potential, settings, folder, progress=False)
    runs[temperature] = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    summary = json.loads((folder / "summary.json").read_text())
    print(f"{temperature} K: {summary['ending']}, {summary['reason']}")

# %%
fig, ax = plt.subplots(figsize=(6, 3.2))
for temperature, log in runs.items():
    ax.plot(log["time_fs"], log["uncertainty"], label=f"{temperature} K")
ax.axhline(2 * usual, color="k", ls=":", label="bound")
ax.set_xlabel("time, fs")
ax.set_ylabel("σ, eV/Å")
ax.legend()
