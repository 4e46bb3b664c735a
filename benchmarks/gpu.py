"""What a GPU makes of eIP: for a machine that is lent for minutes. `bash gpu.sh` runs it.

python benchmarks/gpu.py --out FOLDER             every part, in processes of their own
python benchmarks/gpu.py --out FOLDER --dry-run   the same without a GPU, by Triton's interpreter

Each part has its own limit and writes FOLDER/PART.json after every figure: what was killed or
failed keeps what it had, and a second call goes on there. FOLDER/gpu.json holds all in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

#: Seconds of each part, in this order; of all together, `--seconds`.
LIMITS = {"about": 40, "correctness": 130, "md": 130, "train": 60, "largest": 80, "peers": 90}

CUTOFF, SKIN = 5.0, 0.5
#: The default network, as experiments/accuracy trains it, and one that an interpreter can do.
NETWORK = {"channels": 64, "interactions": 3, "radial_functions": 8}
SMALL = {"channels": 16, "interactions": 2, "radial_functions": 1}
#: Further settings of a backbone.
BACKBONES: dict[str, dict[str, float]] = {
    "cartesian_ace": {"mean_neighbors": 52.0, "feature_limit": 6.0},
    "painn": {},
}
#: Water molecules on a side of the box: 192 to 192,000 atoms.
SIDES = (4, 8, 16, 28, 40)
LARGER = (48, 56, 64, 70, 80)


class Record:
    """Figures by name in a file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """Measures unless that was done; what fails is a figure too, and is tried again."""
        if name not in self.found or "error" in self.found[name]:
            try:
                self.found[name] = measure()
            except Exception as error:  # the others are worth having
                self.found[name] = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            temporary = self.path.with_suffix(".partial")
            temporary.write_text(json.dumps(self.found, indent=1))
            temporary.rename(self.path)
            print(f"  {name}: {json.dumps(self.found[name])[:160]}", flush=True)
        return self.found[name]


class Card:
    """Where is computed: the GPU, or in a dry run the CPU by Triton's interpreter."""

    def __init__(self, dry: bool) -> None:
        import torch

        self.dry, self.device = dry, "cpu" if dry else "cuda"
        if dry:  # the interpreter's time is by programs
            from eip.kernels.triton.sources import atoms, edges

            edges.TABLE_PARTS = atoms.WEIGHT_PARTS = 2
        self.network = SMALL if dry else NETWORK
        if not dry and not torch.cuda.is_available():
            raise SystemExit("PyTorch finds no GPU here; --dry-run tries the script without one")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Within it the kernels of a GPU work."""
        from eip.kernels import triton_path

        with triton_path() if self.dry else contextlib.nullcontext():
            yield

    def wait(self) -> None:
        import torch

        if not self.dry:
            torch.cuda.synchronize()

    def seconds(self, step: Callable[[], object], limit: float) -> dict[str, Any]:
        """Of a step, after two that are not timed."""
        least = 1 if self.dry else 5
        with self.working():
            for _ in range(0 if self.dry else 2):
                step()
            self.wait()
            taken: list[float] = []
            begin = time.perf_counter()
            while len(taken) < least or (time.perf_counter() - begin < limit and not self.dry):
                start = time.perf_counter()
                step()
                self.wait()
                taken.append(time.perf_counter() - start)
        return {"median": statistics.median(taken), "best": min(taken), "repeats": len(taken)}

    def peak(self, step: Callable[[], object]) -> int | None:
        """Bytes of the card's memory at most, of a step."""
        import torch

        if self.dry:
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step()
        self.wait()
        return torch.cuda.max_memory_allocated()


def potential(
    card: Card,
    device: str,
    dtype: str = "float32",
    head: str = "tensor",
    backbone: str = "cartesian_ace",
) -> Any:
    """The network with weights from a seed, read from its file as a user's would be."""
    import torch

    import eip
    from eip.uncertainty.evidential import EvidentialPotential

    torch.manual_seed(0)
    made = EvidentialPotential(
        elements=[1, 8],
        element_energies={1: 0.0, 8: 0.0},
        force_scale=1.0,
        head=head,
        backbone=backbone,
        cutoff=CUTOFF,
        **card.network,
        **BACKBONES[backbone],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.eip"
        eip.save(made, path)
        return eip.load(path, device=device, dtype=getattr(torch, dtype))


def about(card: Card, record: Record) -> None:
    """Card, driver, versions, commit; how fast its memory is."""
    import torch

    from eip.verbs.device import describe_device

    def said(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip()
        except OSError:
            return ""

    def bandwidth() -> dict[str, float]:
        array = torch.empty(2**16 if card.dry else 2**28, device=card.device)
        other = torch.empty_like(array)
        taken = card.seconds(lambda: other.copy_(array), 1.0)["median"]
        return {"bytes_per_second": 2 * array.numel() * array.element_size() / taken}

    fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    record("commit", lambda: {"commit": said("git", "rev-parse", "HEAD")})
    record(
        "nvidia-smi",
        lambda: {"says": said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")},
    )
    record("eip info --device", describe_device)
    record("bandwidth", bandwidth)


def correctness(card: Card, record: Record) -> None:
    """Energy, forces, σ and the gradient of a loss of forces: the card against the CPU's kernels,
    both against float64; and the same twice."""
    import torch
    from structures import water_box

    import eip

    box = water_box(1 if card.dry else 3)

    def everything(device: str, dtype: str, backbone: str) -> dict[str, torch.Tensor]:
        model = potential(card, device, dtype, backbone=backbone)
        graph = eip.build_graph(box, CUTOFF, device=device)
        said = model(graph)
        out = {"energy": said.energy, "forces": said.forces, "sigma": said.force_uncertainty}
        model.train().requires_grad_(True)
        said = model(graph, differentiable="everything")
        loss = said.energy.square().sum() + said.forces.square().sum()
        weights = dict(model.named_parameters())
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        out["gradient"] = torch.cat([s.reshape(-1) for s in slopes if s is not None])
        return {name: value.detach().cpu().double() for name, value in out.items()}

    for backbone in BACKBONES:
        exact = everything("cpu", "float64", backbone)
        for dtype in ("float64", "float32"):
            if card.dry and (backbone, dtype) == ("painn", "float64"):
                continue  # the interpreter takes its time

            def compared(
                dtype: str = dtype,
                backbone: str = backbone,
                exact: dict[str, torch.Tensor] = exact,
            ) -> dict[str, Any]:
                with card.working():
                    one, two = (everything(card.device, dtype, backbone) for _ in range(2))
                cpu = everything("cpu", dtype, backbone)

                def off(values: dict[str, torch.Tensor], name: str) -> float:
                    true = exact[name]
                    return float((values[name] - true).abs().max() / true.abs().max())

                return {
                    "atoms": len(box),
                    "card_largest_error": {name: off(one, name) for name in exact},
                    "cpu_largest_error": {name: off(cpu, name) for name in exact},
                    "same_bits_twice": {n: bool(torch.equal(one[n], two[n])) for n in one},
                }

            name = f"{backbone} {dtype}"
            found = record(name, compared)
            within = {"float64": 1e-9, "float32": 1e-3}[dtype]
            errors = found.get("card_largest_error", {"": float("inf")})
            record(f"{name} is right", lambda e=errors, w=within: {"is": max(e.values()) < w})
            same = found.get("same_bits_twice", {"": False})
            record(f"{name} is the same twice", lambda s=same: {"is": all(s.values())})


def steps_of(card: Card, side: int, variants: tuple[str, ...]) -> Iterator[tuple[str, Any, int]]:
    """A step of dynamics by what is predicted: one list of neighbors, atoms that move."""
    import itertools

    import torch
    from structures import Motion, water_box

    import eip

    box = water_box(side)
    graph = eip.build_graph(box, CUTOFF + SKIN, device=card.device)
    motion = Motion(box)
    places = [torch.tensor(motion.next(), device=card.device) for _ in range(4)]
    for variant in variants:
        model = potential(card, card.device, head="none" if variant == "none" else "tensor")
        if variant == "udd":
            model = eip.UDDPotential(model, eip.UDDParameters(A=1.0, B=1.0, C=1.0, D=1.0))
        snapshot, moved = eip.prepared(model), itertools.cycle(places)
        yield variant, lambda s=snapshot, m=moved: s(graph.with_positions(next(m))), len(box)


def md(card: Card, record: Record) -> None:
    """A step of dynamics at growing sizes: energy and forces, with σ, with UDD's bias; and by the
    ASE calculator, neighbor list and bus included."""
    from structures import Motion, water_box

    import eip
    from eip.kernels import reference_path

    for side in (1,) if card.dry else SIDES:
        names = ("none", "tensor", "udd")
        if any(f"{side}: {name}" not in record.found for name in names):
            for name, step, atoms in steps_of(card, side, names):

                def timed(step: Any = step, atoms: int = atoms) -> dict[str, Any]:
                    peak = card.peak(step) if not card.dry else None
                    taken = card.seconds(step, 1.5)
                    per_atom = 1e6 * taken["median"] / atoms
                    return {"atoms": atoms, "us_per_atom": per_atom, "peak_bytes": peak, **taken}

                record(f"{side}: {name}", timed)

        def of_list(side: int = side) -> dict[str, Any]:
            box = water_box(side)
            taken = card.seconds(
                lambda: eip.build_graph(box, CUTOFF + SKIN, device=card.device), 1.0
            )
            return {"atoms": len(box), "us_per_atom": 1e6 * taken["median"] / len(box), **taken}

        record(f"{side}: neighbor list", of_list)
        if side > 16:
            continue

        def by_calculator(side: int = side) -> dict[str, Any]:
            box, motion = water_box(side), Motion(water_box(side))
            box.calc = eip.Calculator(potential(card, card.device))

            def moved() -> None:
                box.positions = motion.next()
                box.get_forces()

            taken = card.seconds(moved, 1.5)
            return {"atoms": len(box), "us_per_atom": 1e6 * taken["median"] / len(box), **taken}

        record(f"{side}: calculator", by_calculator)
    for side in () if card.dry else (8,):

        def in_plain_pytorch(side: int = side) -> dict[str, Any]:
            ((_, step, atoms),) = steps_of(card, side, ("tensor",))
            with reference_path():
                taken = card.seconds(step, 1.5)
            return {"atoms": atoms, "us_per_atom": 1e6 * taken["median"] / atoms, **taken}

        record(f"{side}: tensor in plain PyTorch", in_plain_pytorch)


def train(card: Card, record: Record) -> None:
    """A training step on a batch of boxes: forward, loss of energies and forces, backward."""
    import torch
    from structures import water_box

    import eip
    from eip.data.dataset import Batch
    from eip.training.loss import Loss
    from eip.training.settings import TrainingSettings

    for boxes, side in ((1, 1),) if card.dry else ((10, 4), (40, 4)):

        def step_of(boxes: int = boxes, side: int = side) -> dict[str, Any]:
            frames = [water_box(side, seed) for seed in range(boxes)]
            model = potential(card, card.device).train().requires_grad_(True)
            graph = eip.build_graph(frames, CUTOFF)
            generator = torch.Generator().manual_seed(0)
            labels = torch.randn(graph.n_atoms, 3, generator=generator, dtype=model.dtype)
            energies = torch.randn(boxes, generator=generator, dtype=torch.float64)
            names = tuple(map(str, range(boxes)))
            batch = Batch(graph, energies, labels, None, names).to(card.device)
            loss = Loss.of(TrainingSettings())
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

            def step() -> None:
                optimizer.zero_grad()
                loss(model(batch.graph, differentiable="everything"), batch).total.backward()
                optimizer.step()

            taken = card.seconds(step, 2.0)
            atoms = graph.n_atoms
            return {"atoms": atoms, "us_per_atom": 1e6 * taken["median"] / atoms, **taken}

        record(f"{boxes} boxes of {3 * side**3} atoms", step_of)


def largest(card: Card, record: Record) -> None:
    """The largest box whose energy, forces and σ fit into the card's memory."""
    import torch

    for side in (1,) if card.dry else LARGER:

        def fits(side: int = side) -> dict[str, Any]:
            ((_, step, atoms),) = steps_of(card, side, ("tensor",))
            with card.working():
                peak = card.peak(step)
            return {"atoms": atoms, "peak_bytes": peak}

        found = record(f"{3 * side**3} atoms", fits)
        if "error" in found:
            break
        peak = found["peak_bytes"]
        if peak is not None:
            memory = torch.cuda.get_device_properties(0).total_memory
            estimate = {"atoms": int(found["atoms"] * 0.95 * memory / peak)}
            record(f"estimate from {found['atoms']} atoms", lambda e=estimate: e)


def peers(card: Card, record: Record) -> None:
    """MACE, with cuEquivariance where it is installed, at the same water: `gpu.sh` makes its
    environment if that is done in time."""
    from pool import WorkerProcess, installed_peers
    from structures import save, water_box

    there = [name for name in installed_peers() if name in ("mace", "schnetpack")]
    record("installed", lambda: {"peers": there})
    for name in [] if card.dry else there:
        worker = WorkerProcess(name, 4, card.device)
        try:
            record(f"{name}: about", lambda w=worker: w.load([1, 8]))
            for side in (4, 8, 16):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "box.npz"
                    save(path, [water_box(side)])
                    request = {
                        "what": "md_step",
                        "structures": str(path),
                        "options": {"variant": "none", "mode": "model"},
                        "least": 3,
                        "seconds": 3.0,
                    }

                    def timed(w: WorkerProcess = worker, r: Any = request, s: int = side) -> Any:
                        seconds = statistics.median(w.ask("time", **r)["seconds"])
                        atoms = 3 * s**3
                        return {
                            "atoms": atoms,
                            "median": seconds,
                            "us_per_atom": 1e6 * seconds / atoms,
                        }

                    record(f"{name}: {3 * side**3} atoms", timed)
        finally:
            worker.close()


PARTS = {
    "about": about,
    "correctness": correctness,
    "md": md,
    "train": train,
    "largest": largest,
    "peers": peers,
}


def run_parts(options: argparse.Namespace) -> int:
    """All parts, each in a process that is stopped at its limit; 1 if the card is wrong."""
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    for name in options.only or LIMITS:
        if (options.out / f"{name}.done").exists():
            print(f"{name}: done before")
            continue
        limit = min(LIMITS[name] if not options.dry_run else 3600, end - time.monotonic())
        if limit < 5:
            print(f"{name}: no time is left; call again to go on")
            continue
        print(f"{name}, at most {limit:.0f} s", flush=True)
        command = [sys.executable, __file__, "--part", name, "--out", str(options.out)]
        process = subprocess.Popen(command + (["--dry-run"] if options.dry_run else []))
        try:
            if process.wait(timeout=limit) == 0:
                (options.out / f"{name}.done").touch()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"{name}: stopped at its limit, with what it had", flush=True)
    files = [options.out / f"{name}.json" for name in LIMITS]
    found = {file.stem: json.loads(file.read_text()) for file in files if file.is_file()}
    (options.out / "gpu.json").write_text(
        json.dumps({"dry_run": options.dry_run, **found}, indent=1)
    )
    print(f"Figures: {options.out / 'gpu.json'}")
    failed = [
        f"{part}, {name}: {value['error']}"
        for part, content in found.items()
        for name, value in content.items()
        if "error" in value and part != "largest"
    ]
    print(*failed, sep="\n")
    right = found.get("correctness", {})
    wrong = [name for name, value in right.items() if value.get("is") is False]
    print(*(f"WRONG: not so that {name}" for name in wrong), sep="\n")
    return int(bool(wrong or failed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, tiny sizes")
    parser.add_argument("--seconds", type=float, default=450.0, help="of all parts together")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), help="some parts")
    parser.add_argument("--part", choices=list(LIMITS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        raise SystemExit(run_parts(options))
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    PARTS[options.part](Card(options.dry_run), Record(options.out / f"{options.part}.json"))


if __name__ == "__main__":
    main()
