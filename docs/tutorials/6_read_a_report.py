"""
Read a report
=============

``report.html`` beside every model answers three questions: how wrong are the forces, does σ know
which ones, and is its size right? Here are its plots, one after the other.
"""

# %%
# **How wrong?** Predicted over true, for each component of a force and for the energy per atom.
from pathlib import Path

import matplotlib.pyplot as plt

import eip
from eip import plots
from eip.data import GraphDataset, make_loader, open_frames
from eip.evaluation import compute_metrics, evaluate
from eip.evaluation.metrics import calibration_curve, retention_curve

data = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir()) / "examples/data"
potential = eip.load("runs/ethanol/model.eip")
store = open_frames(data / "ethanol_300K_test.xyz")
dataset = GraphDataset(store, cutoff=potential.cutoff)
loader = make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)
found = evaluate(potential, loader, progress=False)
metrics = compute_metrics(found)

fig, ax = plt.subplots(figsize=(4.5, 4))
plots.parity(ax, found.forces_true, found.forces_pred, quantity="force component", unit="eV/Å")

# %%
# **Does σ know?** Drop the atoms that σ calls most uncertain, one after the other, and the error of
# the rest falls; it cannot fall faster than if the errors were known (the lower line).
fig, ax = plt.subplots(figsize=(4.5, 3.6))
plots.retention(ax, *retention_curve(found.atom_error, found.force_uncertainty))
print(f"Spearman {metrics['spearman_atom']:.2f}, ROC-AUC {metrics['roc_auc_atom']:.2f}")

# %%
# **Is its size right?** The share of errors inside an interval should be the interval's level.
fig, ax = plt.subplots(figsize=(4.5, 3.6))
curve = calibration_curve(found.force_error, found.force_uncertainty, found.interval)
plots.calibration_curves(ax, {"test frames": curve})
