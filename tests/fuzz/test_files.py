"""Files of all kinds, bent at random: read, or one error that names the file; never anything else.

A few examples in every run, 2,000 of each kind among the slow tests.
"""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io.extxyz import write_xyz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eip.config import Config, LearningConfig, default_config_yaml, load_config
from eip.data import Labels, read_frames, read_structures
from eip.errors import InputError
from eip.model_file import load_model, save_model
from eip.uncertainty.methods import new_network

FEW, MANY = 50, 2000


def fuzz(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A test of some examples, and the same among the slow ones of many."""

    def decorate(test: Callable[..., None]) -> Any:
        @pytest.mark.parametrize(
            "examples", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
        )
        def run(examples: int) -> None:
            quiet = list(HealthCheck)
            bound = settings(
                max_examples=examples,
                deadline=None,
                suppress_health_check=quiet,
                database=None,
                derandomize=examples == FEW,
            )
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as name:
                warnings.simplefilter("ignore")
                folder = Path(name)

                @bound
                @given(st.tuples(*strategies))
                def drawn(values: tuple[Any, ...]) -> None:
                    test(folder, *values)

                drawn()

        run.__name__ = run.__qualname__ = test.__name__
        return run

    return decorate


def accepts(path: Path, read: Callable[[], object]) -> None:
    """Reads, or raises an InputError that is not long and names the file."""
    try:
        read()
    except InputError as error:
        text = str(error)
        assert path.name in text or "--set" in text, text
        assert len(text) < 5000, text


#: Bytes changed, cut out, doubled or put in: position (as a share), what, how much.
BENDS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "cut", "double", "insert", "end"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def bent(content: bytes, bends: list[tuple[float, str, bytes]]) -> bytes:
    for share, how, what in bends:
        at, n = int(share * len(content)), len(what)
        match how:
            case "flip":
                content = content[:at] + what + content[at + n :]
            case "cut":
                content = content[:at] + content[at + 4 * n :]
            case "double":
                content = content[:at] + content[at : at + 16 * n] + content[at:]
            case "insert":
                content = content[:at] + what + content[at:]
            case "end":
                content = content[:at]
    return content


# --- extended xyz ------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["Lattice", "lattice", "Properties", "pbc", "energy", "Energy", "stress", "virial", "charge"]
    + ["energy_unit", "length_unit", "config_type", "material_id", "forces", "a b", "", "#"]
)
VALUES = st.one_of(
    st.sampled_from(
        ["9 0 0 0 9 0 0 0 9", "nan", "T T F", "T", "eV", "-1", "1e400", "1_0", "-0.1D+03", '"']
        + ["species:S:1:pos:R:3", "species:S:1:pos:R:3:forces:R:3", "pos:R:999999999", "", "\\"]
    ),
    st.text(max_size=20),
    st.lists(st.floats(), min_size=1, max_size=9).map(lambda v: " ".join(map(str, v))),
)


@fuzz(
    st.lists(st.tuples(KEYS, VALUES, st.booleans()), max_size=6),
    st.sampled_from(["2", "3", "0", "-1", "1000000000000", "２", "2 2", "\ufeff2"]),
    st.lists(
        st.one_of(st.sampled_from(["O 0 0 0", "H 0 0 1", "H 0 0 1 0 0 0", "Q 0 0 0"]), st.text()),
        max_size=3,
    ),
)
def test_headers_of_extended_xyz(
    folder: Path, pairs: list[tuple[str, str, bool]], count: str, lines: list[str]
) -> None:
    path = folder / "a.xyz"
    header = " ".join(f'{k}="{v}"' if quoted else f"{k}={v}" for k, v, quoted in pairs)
    text = "\n".join([count, header.replace("\n", " "), *lines, ""])
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    accepts(path, lambda: list(read_frames(path)))
    accepts(path, lambda: list(read_structures(path)))


def whole_xyz() -> bytes:
    text, atoms = io.StringIO(), molecule("H2O")
    atoms.info.update(energy=-1.0, charge=0)
    atoms.arrays["forces"] = np.ones((3, 3))
    write_xyz(text, [atoms, atoms])
    return text.getvalue().encode()


@fuzz(BENDS)
def test_bent_extended_xyz(folder: Path, bends: list[tuple[float, str, bytes]]) -> None:
    path = folder / "a.xyz"
    path.write_bytes(bent(whole_xyz(), bends))
    accepts(path, lambda: list(read_frames(path)))
    accepts(path, lambda: list(read_structures(path)))


# --- npz ---------------------------------------------------------------------------------------

DTYPES = st.sampled_from(["<f8", "<f4", "<c16", "|b1", "<U3", "|S2", "<i8", "|u1", "<M8[s]", "|O"])
SHAPES = st.one_of(
    st.sampled_from(["(3,)", "(2, 3, 3)", "(2,)", "(2, 1)", "()", "(0,)", "(2, 0, 3)", "(3, 3)"]),
    st.lists(st.integers(-2, 10**12), max_size=4).map(lambda v: str(tuple(v))),
)
NAMES = st.sampled_from(["z", "R", "E", "F", "cell", "pbc", "stress", "symbols", "e_unit", "x"])


def member(dtype: str, order: bool, shape: str, values: bytes) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values


@fuzz(
    st.lists(
        st.tuples(NAMES, DTYPES, st.booleans(), SHAPES, st.integers(0, 300)), min_size=1, max_size=6
    ),
    st.one_of(st.just([]), BENDS),
)
def test_npz(
    folder: Path,
    arrays: list[tuple[str, str, bool, str, int]],
    bends: list[tuple[float, str, bytes]],
) -> None:
    path, content = folder / "a.npz", io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        whole = {"z": np.array([8, 1, 1]), "R": np.stack([molecule("H2O").positions] * 2)}
        for name, array in (whole if len(arrays) < 4 else {}).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, array)
        for name, *rest, size in arrays:
            archive.writestr(f"{name}.npy", member(*rest, bytes(size)))
    path.write_bytes(bent(content.getvalue(), bends))
    accepts(path, lambda: list(read_frames(path, Labels(energy_unit="eV"))))
    accepts(path, lambda: list(read_structures(path)))


# --- yaml --------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                SCALARS, st.sampled_from(["train", "epochs", "model", "labels", "H", "cutoff"])
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
SECTIONS = st.sampled_from(["data", "model", "training", "learn", "run_dir", "data.train"])


@fuzz(
    st.lists(st.tuples(SECTIONS, TREES), max_size=3),
    st.one_of(st.just([]), BENDS),
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.tuples(
                st.sampled_from(["model.cutoff", "training.seed", "data.train", "learn.starts"]),
                TREES.map(lambda v: str(v)),
            ).map("=".join),
        ),
        max_size=2,
    ),
)
def test_yaml(
    folder: Path,
    changes: list[tuple[str, Any]],
    bends: list[tuple[float, str, bytes]],
    overrides: list[str],
) -> None:
    for root in (Config, LearningConfig):
        path = folder / "config.yaml"
        values = yaml.safe_load(default_config_yaml(["a.xyz"], root))
        for key, tree in changes:
            section, _, inner = key.partition(".")
            if inner and isinstance(values.get(section), dict):
                values[section][inner] = tree
            else:
                values[section] = tree
        text = yaml.safe_dump(values, allow_unicode=True)
        path.write_bytes(bent(text.encode("utf-8", "surrogatepass"), bends))
        accepts(path, partial(load_config, path, overrides, root=root))


# --- models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    global MODEL
    path = tmp_path_factory.mktemp("model") / "model.eip"
    network = new_network(
        "tensor", None, elements=[1, 8], element_energies={1: 0.0, 8: 0.0}, force_scale=1.0,
        channels=4, interactions=1, radial_functions=4, cutoff=3.0, zbl=False,
    )  # fmt: skip
    save_model(network, path, {})
    MODEL = path.read_bytes()
    return MODEL


MODEL = b""


@fuzz(BENDS, st.booleans())
def test_models(folder: Path, bends: list[tuple[float, str, bytes]], header: bool) -> None:
    path = folder / "model.eip"
    size = int.from_bytes(MODEL[:8], "little") + 8
    content = bent(MODEL[:size], bends) + MODEL[size:] if header else bent(MODEL, bends)
    path.write_bytes(content)
    accepts(path, lambda: load_model(path, device="cpu"))
