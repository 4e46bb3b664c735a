"""What each of the paper's figures is made of, at two scales: plain values, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FigureName = Literal["fig2", "fig3", "fig4", "fig5"]
Scale = Literal["small", "paper"]


@dataclass(frozen=True)
class DataSets:
    """Files, below the data folder, and how frames are drawn from them.

    Attributes:
        known: to train on.
        test: files, or how many frames (or which share) of the known ones.
        validation: how many frames, or which share.
        split: as `eip.config.DataConfig`.
        train: of each known file so many to train on at most, and test and validation of each.
        fetch: names for `eip fetch`, which brings the files.
        ood_frames: of each file at most.
    """

    known: tuple[str, ...]
    test: tuple[str, ...] | float | int
    validation: float | int
    ood: tuple[str, ...] = ()
    split: str = "random"
    train: int | None = None
    fetch: tuple[str, ...] = ()
    ood_frames: int | None = None


@dataclass(frozen=True)
class Setup:
    """A figure at one scale.

    Attributes:
        about: what stands for what.
        sets: None where no data are needed.
        model, training: as in config.yaml.
        extra: what only this figure has.
    """

    about: str
    sets: DataSets | None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


#: The paper's network, and the likelihood alone, by which its best epoch is chosen, too.
_NETWORK: Mapping[str, Any] = {"backbone": "painn"}
_LIKELIHOOD: Mapping[str, Any] = {"selection": "loss", "variance_weight": 0.0}

_CRYSTALS = tuple(f"silica/{name}.npz" for name in ("sod", "dft", "edi", "att"))
_FRACTIONS = (0.01, 0.05, 0.3, 1.0)
_FROM_XTB: Mapping[str, Any] = {
    "labeler": "xtb",
    "labeler_options": {"method": "GFN1-xTB"},
    "initial": 40,
    "labels": 40,
    "generations": 3,
    "length_ps": 2.0,
}

SETUPS: dict[tuple[FigureName, Scale], Setup] = {
    ("fig2", "small"): Setup(
        "acetylacetone (450 frames of 15 atoms at 300 K; 600 K as out of distribution) in place of "
        "ISO17",
        DataSets(
            known=("acac/train_300K.xyz",),
            validation=50,
            split="last",
            test=("acac/test_MD_300K.xyz",),
            ood=("acac/test_MD_600K.xyz",),
            fetch=("acac",),
        ),
        {**_NETWORK, "channels": 64},
        {**_LIKELIHOOD, "epochs": 60},
        {"fractions": _FRACTIONS},
    ),
    ("fig2", "paper"): Setup(
        "ISO17",
        DataSets(
            known=("iso17/reference.db",),
            validation=4000,
            test=("iso17/test_within.db",),
            ood=("iso17/test_other.db",),
            fetch=("iso17",),
        ),
        {**_NETWORK, "channels": 128},
        {**_LIKELIHOOD, "epochs": 60, "batch_size": 64, "ema_decay": 0.999},
        {"fractions": _FRACTIONS},
    ),
    ("fig3", "small"): Setup(
        "four crystalline silica topologies (120 frames of 15 to 108 atoms each; two others as out "
        "of distribution) in place of silica glass",
        DataSets(
            known=_CRYSTALS,
            validation=20,
            test=50,
            train=120,
            ood=("silica/abw.npz", "silica/oso.npz"),
            ood_frames=100,
            fetch=("silica",),
        ),
        {**_NETWORK, "channels": 64},
        {**_LIKELIHOOD, "epochs": 12},
    ),
    ("fig3", "paper"): Setup(
        "silica glass, 1,691 frames of 699 atoms, 8:1:1",
        DataSets(known=("silica-glass",), validation=0.1, test=0.1, fetch=("silica-glass",)),
        {**_NETWORK, "channels": 128},
        {**_LIKELIHOOD, "epochs": 200, "batch_size": 4},
    ),
    ("fig4", "small"): Setup(
        "one molecule of ethanol, labelled by GFN1-xTB, at 500 K, in place of water and CP2K",
        None,
        {**_NETWORK, "channels": 32},
        {**_LIKELIHOOD, "epochs": 150},
        {
            "start": {"molecule": "CH3CH2OH"},
            "learn": {
                "labeler": "xtb",
                "labeler_options": {"method": "GFN1-xTB"},
                "initial": 20,
                "labels": 40,
                "generations": 4,
                "temperatures": [500],
                "length_ps": 4.0,
            },
        },
    ),
    ("fig4", "paper"): Setup(
        "liquid water, 96 molecules, CP2K PBE-D3; starts from a classical force field",
        None,
        {**_NETWORK, "channels": 128},
        {**_LIKELIHOOD, "epochs": 200, "batch_size": 2, "ema_decay": 0.999},
        {
            "start": {"water": 96, "boxes": 20},
            "learn": {
                "labeler": "cp2k",
                "initial": 1000,
                "labels": 200,
                "generations": 4,
                "temperatures": [300],
                "length_ps": 50.0,
                "frame_interval": 50,
            },
        },
    ),
    ("fig5", "small"): Setup(
        "a sample of MPtrj, 800 of its 1.6 million frames; high temperature and pressure as out of "
        "distribution",
        DataSets(
            known=("mptrj-sample/mptrj-random-1k.xyz",),
            validation=0.1,
            test=0.1,
            split="by_group",
            ood=("mptrj-sample/mpf-TP.xyz",),
            fetch=("mptrj-sample",),
        ),
        {**_NETWORK, "channels": 64, "zbl": True, "force_scale": "mean"},
        {
            **_LIKELIHOOD,
            "epochs": 40,
            "max_edges": 8000,
            "batch_size": 1,
            "variance_weight": 1.0,
        },
        {
            "ps": 1.0,
            "lifepo4": (1, 2, 3),
            "pdms": (3, 25),
            # So few frames teach nothing about either; a reference method that is there does.
            "learn": {
                "LiFePO4": {
                    "start": {"lifepo4": (1, 1, 2)},
                    "model": {**_NETWORK, "channels": 48, "zbl": True},
                    "training": {**_LIKELIHOOD, "epochs": 100},
                    "learn": {**_FROM_XTB, "generations": 2, "temperatures": [300, 600]},
                },
                "PDMS": {
                    "start": {"pdms": (2, 3)},
                    "model": {**_NETWORK, "channels": 48, "zbl": True},
                    "training": {**_LIKELIHOOD, "epochs": 100},
                    "learn": {**_FROM_XTB, "temperatures": [350]},
                },
            },
        },
    ),
    ("fig5", "paper"): Setup(
        "MPtrj, 8:1:1 by material",
        DataSets(
            known=("mptrj/MPtrj_2022.9_full.json",),
            validation=0.1,
            test=0.1,
            split="by_group",
            ood=("mptrj-sample/mpf-TP.xyz",),
            fetch=("mptrj", "mptrj-sample"),
        ),
        {**_NETWORK, "channels": 128, "zbl": True, "force_scale": "mean"},
        {
            **_LIKELIHOOD,
            "epochs": 30,
            "max_edges": 200_000,
            "batch_size": 1,
            "variance_weight": 1.0,
            "ema_decay": 0.999,
        },
        {"ps": 100.0, "lifepo4": (1, 2, 3), "pdms": (3, 25)},
    ),
}
