"""
Compare methods of uncertainty
==============================

Evidence, an ensemble, a Gaussian mixture, … on the same network, frames and budget.
"""

# %%
# The same as ``eip compare config.yaml --methods tensor,mve,gmm``.
from pathlib import Path

import eip

data = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir()) / "examples/data"
Path("compare.yaml").write_text(
    f"""
run_dir: runs/compare
data:
  train: {data}/ethanol_300K.xyz
  validation: 40
  test: {data}/ethanol_300K_test.xyz
  ood: {data}/ethanol_800K_test.xyz
model: {{channels: 16, interactions: 2}}
training: {{epochs: 3, device: cpu}}
"""
)
comparison = eip.compare(eip.load_config("compare.yaml"), ["tensor", "mve", "gmm"], progress=False)
for method, figures in comparison.figures.items():
    shown = {k: figures.get(k, {}).get("mean") for k in ("force_mae", "spearman_atom", "ood_ratio")}
    print(method, {k: v if v is None else round(v, 3) for k, v in shown.items()})

# %%
# Error over σ of each, and what they cost:
import matplotlib.image as image
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(9, 6))
ax.imshow(image.imread(comparison.plot))
ax.axis("off")
