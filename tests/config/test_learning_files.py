"""Files that text of a configuration may name are looked for beside it."""

from __future__ import annotations

from pathlib import Path

from eip.config import LearningConfig, load_config

CONFIG = """
learn:
  starts: start.xyz
  labeler: ase
  labeler_options: {calculator: "calc.py:make", template: my.inp, cutoff: 400}
  executor: parsl:site.py
"""


def test_options_of_the_labeler(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "learn.yaml").write_text(CONFIG)
    learn = load_config(folder / "learn.yaml", root=LearningConfig).learn
    # As it was given where there is no such file: the folder of the process counts then.
    assert learn.labeler_options["calculator"] == "calc.py:make"
    for name in ("calc.py", "site.py", "my.inp"):
        (folder / name).touch()
    learn = load_config(folder / "learn.yaml", root=LearningConfig).learn
    assert learn.labeler_options == {
        "calculator": f"{folder / 'calc.py'}:make", "template": str(folder / "my.inp"),
        "cutoff": 400,
    }  # fmt: skip
    assert learn.executor == f"parsl:{folder / 'site.py'}"
