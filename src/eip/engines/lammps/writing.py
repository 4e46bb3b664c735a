"""A potential as one flat file, which the plugin in `plugin/` reads; the layout is in weights.h.

Weights go in the order in which PyTorch has them: the plugin brings them into the order of the
processor that it runs on. Numbers that both sides need are written here, from where they are said.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from eip._version import __version__
from eip.errors import InputError
from eip.files import write_whole
from eip.kernels import cartesian, coupling, messages, networks, painn
from eip.kernels.features import DISTANCE_EPSILON
from eip.models import zbl
from eip.models.backbone import Backbone
from eip.models.cartesian_ace import CartesianACE
from eip.models.energy import EnergyModel
from eip.models.painn import PaiNN
from eip.models.short_range import ShortRange
from eip.potential import Potential, layers
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.energy_error import EnergyErrorPotential
from eip.uncertainty.evidential import EvidentialPotential, NoHead, TensorHead
from eip.uncertainty.guard import ONSET
from eip.uncertainty.latent_distance import LatentDistancePotential
from eip.units import COULOMB

P = TypeVar("P", bound=Potential)

#: What weights.h reads.
FORMAT = 1
MAGIC = b"EIPLMP\n\0"

_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.int64): 2}
_TEXT = 3

#: A name, and a text, a whole number, a number or numbers (float64), or weights.
Record = tuple[str, str | int | float | list[float] | np.ndarray | Tensor]


def export(potential: Potential, path: str | Path) -> None:
    """Writes the file of a potential that the plugin can run; an existing one is replaced whole.

    Raises:
        InputError: if the plugin knows no such network, uncertainty or repulsion.
    """
    calibrated, latent, network = _parts(potential)
    records = [
        *_network(network.energy_model),
        *_head(network),
        *(() if latent is None else _latent(latent)),
        *(() if calibrated is None else _calibration(calibrated)),
    ]
    content = b"".join(_record(name, value) for name, value in records)
    head = MAGIC + struct.pack("<qqq", FORMAT, len(content), zlib.crc32(content))
    write_whole(path, head + content)


def _parts(
    potential: Potential,
) -> tuple[CalibratedPotential | None, LatentDistancePotential | None, EvidentialPotential]:
    """What the plugin makes σ of, from the outside in; energies' error bars it leaves out."""
    chain = [one for one in layers(potential) if not isinstance(one, EnergyErrorPotential)]
    *around, network = chain
    calibrated = _taken(around, CalibratedPotential)
    latent = _taken(around, LatentDistancePotential)
    if around or not isinstance(network, EvidentialPotential):
        names = " of ".join(getattr(one, "kind", type(one).__name__) for one in chain)
        raise InputError(
            "LAMMPS' plugin runs one network with evidence (the methods tensor and none), with "
            f"latent distance and calibration; this is {names}"
        )
    return calibrated, latent, network


def _taken(around: list[Potential], kind: type[P]) -> P | None:
    """The first, if it is of the kind; the others stay."""
    first = around[0] if around else None
    if not isinstance(first, kind):
        return None
    del around[0]
    return first


def _backbone(backbone: Backbone) -> tuple[networks.Named, list[Record]]:
    """Weights, and what is said of one network alone."""
    with torch.no_grad():
        if type(backbone) is CartesianACE:
            constants = backbone.cutoff, backbone.radial_functions, backbone.mean_neighbors
            return cartesian.named(backbone.weights(), *constants), [
                ("network", "cartesian_ace"),
                ("intervals", coupling.intervals(backbone.radial_functions)),
                ("inverse_square", backbone.inverse_square),
            ]
        if type(backbone) is PaiNN:
            weights = backbone.weights()
            return painn.named(weights, backbone.cutoff, backbone.radial_functions), [
                ("network", "painn"),
                ("intervals", messages.intervals(backbone.radial_functions)),
            ]
    raise InputError(
        "LAMMPS' plugin knows the networks cartesian_ace and painn, and this model has "
        f"{type(backbone).__name__}"
    )


def _network(model: EnergyModel) -> Iterator[Record]:
    backbone = model.backbone
    found, own = _backbone(backbone)
    if model.zbl is not None:
        raise InputError(
            "this model has the repulsion of earlier versions (zbl), which LAMMPS' plugin lacks; "
            "train it again, or give it the newer one by eip calibrate MODEL --trained-on FRAMES"
        )
    yield from own
    yield "written_by", f"eip {__version__}"
    yield "elements", " ".join(chemical_symbols[z] for z in model.elements)
    yield "channels", backbone.channels
    yield "layers", len(found.maps)
    yield "cutoff", backbone.cutoff
    yield from found.elements.items()
    for number, (maps, arrays, table) in enumerate(
        zip(found.maps, found.arrays, found.tables, strict=True)
    ):
        for name, array in {**maps, **arrays, "table": table}.items():
            if array is not None:
                yield f"layer.{number}.{name}", array
    readout: Any = model.readout
    hidden, out = readout[0], readout[-1]
    yield "force_scale", model.force_scale
    yield "element_energies", [model.element_energies[z] for z in model.elements]
    yield from _linear("readout.hidden", hidden)
    yield "readout.out", out.weight[0]
    yield "readout.out_bias", out.bias
    if model.short_range is not None:
        yield from _short_range(model.short_range)


def _short_range(short_range: ShortRange) -> Iterator[Record]:
    yield "short.begins", short_range.begins.double()
    yield "short.numbers", short_range.numbers.double()
    yield "short.width", short_range.settings.width
    yield "short.coulomb", COULOMB
    yield "short.screening", zbl.SCREENING
    yield "short.coefficients", list(zbl.COEFFICIENTS)
    yield "short.exponents", list(zbl.EXPONENTS)


def _head(network: EvidentialPotential) -> Iterator[Record]:
    head = network.head
    if isinstance(head, NoHead):
        return
    if not isinstance(head, TensorHead):
        raise InputError(
            "LAMMPS' plugin has σ of the method tensor, and none of the method "
            f"{network.head_name} that this model was trained with"
        )
    modules: Any = head.coefficients
    yield "head.scale", head.scale
    yield "head.lengths", head.lengths.weight
    yield "head.directions", head.directions.weight
    yield from _linear("head.hidden", modules[0])
    yield from _linear("head.out", modules[2])


def _latent(latent: LatentDistancePotential) -> Iterator[Record]:
    yield "latent.means", latent.means
    yield "latent.whitening", latent.whitening
    yield "latent.epsilon", DISTANCE_EPSILON
    yield (
        "latent.powers",
        [latent.sigma_exponent, latent.distance_exponent, latent.neighborhood_exponent],
    )
    yield "latent.reference", latent.reference
    if latent.guard is not None:
        yield "latent.strength", latent.guard.strength
        yield "latent.onset", ONSET
        yield "latent.guard", latent.guard.table()[:, list(latent.elements)].T


def _calibration(calibrated: CalibratedPotential) -> Iterator[Record]:
    calibration = calibrated.calibration
    yield "calibration.factors", [calibration.factor_of(z) for z in calibrated.elements]
    yield "calibration.knots", np.array(calibration.knots, dtype=np.float64).reshape(-1, 2)


def _linear(name: str, layer: Any) -> Iterator[Record]:
    yield name, layer.weight
    yield f"{name}_bias", layer.bias


def _record(name: str, value: str | int | float | list[float] | np.ndarray | Tensor) -> bytes:
    if isinstance(value, str):
        kind, shape, data = _TEXT, (len(value.encode()),), value.encode()
    else:
        if isinstance(value, Tensor):
            array = value.detach().cpu().numpy()
        else:
            array = np.atleast_1d(np.asarray(value))
        array = np.ascontiguousarray(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        kind, shape, data = _KINDS[array.dtype], array.shape, array.tobytes()
    said = name.encode()
    return b"".join(
        [
            *(struct.pack("<q", len(said)), _filled(said), struct.pack("<qq", kind, len(shape))),
            *(struct.pack(f"<{len(shape)}q", *shape), _filled(data)),
        ]
    )


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
