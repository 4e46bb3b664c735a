"""Reference pages made from the code: the command line, the configuration, the public names."""

from __future__ import annotations

import os
import re
from pathlib import Path

os.environ["COLUMNS"] = "100"


def write_reference(folder: Path) -> None:
    """Writes the pages; one that has not changed keeps its time, so that it is not built anew."""
    folder.mkdir(exist_ok=True)
    pages = {
        "cli": _command_line(),
        "config": _configuration(),
        "prediction": predicted(),
        "api": _api(),
    }
    for name, text in pages.items():
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _command_line() -> str:
    from typer.main import get_command
    from typer.testing import CliRunner

    from eip.cli import app

    pages = ["# Command line", "What `eip COMMAND --help` says."]
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        said = CliRunner().invoke(app, [name, "--help"], env={"NO_COLOR": "1", "TERM": "dumb"})
        text = "\n".join(line.rstrip() for line in said.output.strip("\n").splitlines())
        pages += [f"## eip {name}", f"```text\n{text}\n```"]
    return "\n\n".join(pages) + "\n"


def _configuration() -> str:
    from eip.config import ROOTS, default_config_yaml

    pages = [
        "# Configuration",
        "Every key with its meaning and its default. `--set training.epochs=50` is a key on the "
        "command line of `eip train`, `compare`, `learn`; `eip md`, `label` and `analyze` take a "
        "file by `--config`, and options on top. A path is relative to the file that names it. "
        "`eip schema VERB` prints the JSON schema.",
    ]
    for verb, root in ROOTS.items():
        title = "eip train, eip compare" if verb == "train" else f"eip {verb}"
        written = f"What `eip init {verb}.yaml --for {verb}` writes."
        pages += [f"## {title}", f"{written}\n\n```yaml\n{default_config_yaml(root=root)}```"]
    pages += ["## Backbones and methods", choices()]
    return "\n\n".join(pages) + "\n"


def choices() -> str:
    """What `model.backbone` and `model.uncertainty` may be, a line each."""
    from eip.models.settings import BACKBONES
    from eip.uncertainty.methods import method
    from eip.uncertainty.names import METHODS

    lines = ["| `model.uncertainty` | is | `members` |", "|---|---|---|"]
    for name in METHODS.names():
        lines.append(f"| `{name}` | {method(name).about} | {method(name).members or ''} |")
    for name in BACKBONES.names():
        kind = BACKBONES.get(name)
        lines += ["", f"`model.backbone: {{name: {name}, …}}`: {kind.__doc__}", ""]
        lines += ["| key | default | is |", "|---|---|---|"]
        for key, field in kind.model_fields.items():
            if key != "name":
                default = "" if field.default is None else field.default
                lines.append(f"| `{key}` | {default} | {field.description} |")
    return "\n".join(lines)


def predicted() -> str:
    """What a potential says, a line for each quantity."""
    from eip.prediction import Prediction, quantities

    lines = [
        "| name | shape | unit | is | elsewhere |",
        "|---|---|---|---|---|",
    ]
    for of in quantities(Prediction):
        shape = " × ".join(str(size) for size in (f"{of.level}s", *of.shape))
        others = ", ".join(f"`{name}`" for name in (*of.ase, *of.aliases) if name != of.name)
        unseen = " (not in results and files)" if of.internal else ""
        about = of.about + (unseen or ("" if of.filed else " (not in files)"))
        lines.append(f"| `{of.name}` | {shape} | {of.unit} | {about} | {others} |")
    table = "\n".join(lines)
    return f"""# What is predicted

Fields of `eip.Prediction`, results of `eip.Calculator` (of one structure, the stress in Voigt
order), columns and keys of `trajectory.xyz` and `predictions.xyz`. "Elsewhere" are names that ASE
or other codes have for the same; results are found by those as well. `forces_uncertainty` is σ_i
for each component, atoms × 3.

{table}

A potential of yours can say more: see `eip.prediction`. What it adds is in all these places, too.
"""


#: Modules whose public names are the library's interface, by what one does with them.
_MODULES = {
    "Verbs": [
        f"eip.verbs.{verb}"
        for verb in (
            "init",
            "fetch",
            "convert",
            "info",
            "train",
            "evaluate",
            "calibrate",
            "compare",
            "md",
            "analyze",
            "label",
            "learn",
            "serve",
        )
    ],
    "Predict": ["eip.potential", "eip.prediction", "eip.graph", "eip.neighbors", "eip.model_file"],
    "Simulate": [
        "eip.simulation.calculator",
        "eip.simulation.annotation",
        "eip.simulation.bias",
        "eip.simulation.dynamics",
        "eip.simulation.summary",
        "eip.simulation.settings",
    ],
    "Other engines": ["eip.engines.ipi_driver", "eip.engines.sockets", "eip.engines.lists"],
    "Read and keep frames": [
        "eip.data.readers",
        "eip.data.labels",
        "eip.data.store",
        "eip.data.export",
    ],
    "Train and evaluate": [
        "eip.training.trainer",
        "eip.training.module",
        "eip.training.settings",
        "eip.training.loss",
        "eip.evaluation.predictions",
        "eip.evaluation.metrics",
    ],
    "Uncertainty": [
        "eip.uncertainty.methods",
        "eip.uncertainty.evidential",
        "eip.uncertainty.distributions",
        "eip.uncertainty.latent_distance",
        "eip.uncertainty.guard",
        "eip.uncertainty.energy_error",
        "eip.composition",
        "eip.uncertainty.calibration",
        "eip.uncertainty.calibrated",
        "eip.uncertainty.ensemble",
    ],
    "Check a network or a potential of your own": [
        "eip.models.settings",
        "eip.models.backbone",
        "eip.testing",
    ],
    "Errors": ["eip.errors"],
}


def _api() -> str:
    import eip

    names = ", ".join(f"`{name}`" for name in eip.__all__ if not re.match("_", name))
    pages = ["# Python", f"From `import eip`: {names}; each is described below, where it lives."]
    for title, modules in _MODULES.items():
        pages.append(f"## {title}")
        for module in modules:
            pages += [f"### {module}", f"```{{eval-rst}}\n.. automodule:: {module}\n```"]
    return "\n\n".join(pages) + "\n"
