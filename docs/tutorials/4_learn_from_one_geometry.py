"""
Learn from one geometry
=======================

Without any data: a geometry, a reference method (here GFN1-xTB), and a loop of training, dynamics
and labels that can be killed at any moment and goes on.
"""

# %%
# The same as ``eip learn learn.yaml --resume``. Two generations of a tiny network are enough to
# see how it works.
from pathlib import Path

import eip
from eip.config import LearningConfig

start = next(p for p in Path.cwd().resolve().parents if (p / "examples").is_dir())
Path("learn.yaml").write_text(
    f"""
run_dir: runs/learn
model: {{channels: 16, interactions: 2}}
training: {{epochs: 20, device: cpu}}
learn:
  starts: {start}/examples/demo/ethanol.xyz
  labeler: xtb
  labeler_options: {{method: GFN1-xTB}}
  initial: 20
  labels: 10
  generations: 2
  length_ps: 0.1
  executor: serial
"""
)
config = eip.load_config("learn.yaml", root=LearningConfig)
begun = Path("runs/learn/config.yaml").exists()
result = eip.learn(config, resume=begun, progress=False)
print(Path("runs/learn/learning.md").read_text()[:1500])

# %%
# Error over labels, stability of the dynamics, and the share of frames that were worth a label:
import matplotlib.image as image
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(9, 4))
ax.imshow(image.imread("runs/learn/learning.png"))
ax.axis("off")
