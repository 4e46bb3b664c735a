"""
Train a potential and see how far to trust it
=============================================

Two hundred frames of ethanol at 300 K (GFN1-xTB) become a potential; then it is tested on frames
of the same kind and on hotter ones, which it has never seen the like of.
"""

# %%
# The same as ``eip train config.yaml``. The network is small and the training short, so that this
# page is built quickly: the forces below are several times worse than they can be.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rich
from ase.io import read

import eip

data = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir()) / "examples/data"
run = Path("runs/ethanol")

config = Path("config.yaml")
config.write_text(
    f"""
run_dir: {run}
data: {{train: {data}/ethanol_300K.xyz, validation: 40, test: {data}/ethanol_300K_test.xyz}}
model: {{channels: 32, interactions: 2}}
training: {{epochs: 12, device: cpu}}
"""
)
if not (run / "model.eip").exists():
    eip.train(config, progress=False, log=rich.print)

# %%
# On frames of the same kind and on hot ones:
metrics = eip.evaluate(
    run / "model.eip",
    [data / "ethanol_300K_test.xyz"],
    "runs/evaluation",
    ood=[data / "ethanol_800K_test.xyz"],
    force=True,  # in place of an earlier evaluation in this folder
    progress=False,
)
for key in ("force_mae", "force_mae_ood", "spearman_atom", "coverage_80", "ood_ratio"):
    print(f"{key:15s} {metrics[key]:.3f}")

# %%
# ``force_mae`` is in eV/Å. ``spearman_atom`` says how well σ ranks atoms by their error (1 is
# perfect), ``coverage_80`` what share of errors lies within the 80 % interval, and ``ood_ratio``
# whether σ grows as much as the error does where the frames are hot (1 is right).
#
# Error over σ, atom by atom: where σ is small, the error is.
potential = eip.load(run / "model.eip")
fig, ax = plt.subplots(figsize=(5, 4))
for name, color in (("ethanol_800K_test", "tab:red"), ("ethanol_300K_test", "tab:blue")):
    frames = read(data / f"{name}.xyz", ":60")
    said = potential.predict(frames)
    true = np.concatenate([atoms.get_forces() for atoms in frames])
    error = np.abs(said.forces.numpy() - true).mean(axis=1)
    ax.loglog(said.force_uncertainty, error, ".", ms=3, color=color, label=name[8:12].rstrip("_"))
ax.set_xlabel("σ of an atom's force, eV/Å")
ax.set_ylabel("error of an atom's force, eV/Å")
ax.legend()
