"""The frames, as a configuration names them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eip.data.labels import LabelKeys, Labels
from eip.settings import Settings
from eip.settings.values import ElementEnergies, Files, Seed, Validation


class DataConfig(Settings):
    """Labelled frames: extended XYZ, anything ASE reads, npz, DeePMD folders."""

    train: Files = Field(
        description="file or files to train on", examples=[["train.xyz"]], min_length=1
    )
    validation: Validation = Field(
        0.1,
        description="frames that choose the best epoch and fit the calibration: a fraction of the "
        "training frames (0.1), a number of them (50), or files",
    )
    split: Literal["random", "last", "by_group"] = Field(
        "random",
        description="random; by_group: at random, but frames of one material stay together; last: "
        "the frames that end the training files",
    )
    group_key: str | None = Field(
        None,
        description="for by_group: the key of what frames must share, file for the file they are "
        "in; empty: material_id, mp_id, mptrj_traj_id, as MPtrj has them",
    )
    split_seed: Seed = Field(0, description="which frames a random split draws")
    test: Files = Field([], description="file or files to report on after training")
    ood: Files = Field(
        [], description="file or files unlike the training frames, to see whether σ notices"
    )
    labels: LabelKeys = LabelKeys()
    element_energies: ElementEnergies | None = Field(
        None,
        description="energies of isolated atoms, eV, as {H: -13.6, O: -432.1}; empty: of frames "
        "with config_type=IsolatedAtom, else fitted",
    )

    def label_keys(self) -> Labels:
        """Keys and units for the readers."""
        return Labels(**self.labels.model_dump(), group=self.group_key)
