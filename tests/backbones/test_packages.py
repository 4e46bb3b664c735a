"""Weights of others are taken where they are those that a model stands on."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from eip.backbones.packages import Package
from eip.errors import InputError

NET = Package("strangers_net", "eip[strangers_net]", "pretrained")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a package of version 1.2, which runs into an error if it is imported."""
    folder = tmp_path / "strangers_net"
    (folder / "pretrained").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError")
    about = tmp_path / "strangers_net-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers_net\nVersion: 1.2\n")
    weights = folder / "pretrained" / "a.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return weights


def test_what_is_there(installed: Path) -> None:
    found = NET.found("*.pth", None, None)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (found.version, found.weights, found.sha256) == ("1.2", installed, digest)
    assert NET.found("*.pth", "1.2", digest) == found


def test_what_is_not(installed: Path) -> None:
    with pytest.raises(InputError, match=r"stands on strangers_net 1.1, and 1.2 is installed: pip"):
        NET.found("*.pth", "1.1", None)
    with pytest.raises(InputError, match=r"weights are not those that the model stands on"):
        NET.found("*.pth", "1.2", "0" * 64)
    with pytest.raises(InputError, match=r"expected one file of weights b.* found 0"):
        NET.found("b.pth", None, None)


def test_a_package_that_is_missing() -> None:
    with pytest.raises(InputError, match=r'not installed: pip install "eip\[strangers_net\]"'):
        NET.found("*.pth", None, None)
    with pytest.raises(InputError, match=r"strangers_net==1.2"):
        NET.found("*.pth", "1.2", None)
