"""`eip fetch`, `convert`, `info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from eip.cli import printing
from eip.cli.app import app
from eip.cli.failures import resumable
from eip.cli.options import (
    LABEL_NAMES,
    Options,
    Progress,
    label_options,
    labels_from,
    takes,
)
from eip.cli.printing import (
    bar,
    conversion_bar,
    download_bars,
    lines_of,
    list_data_sets,
    show,
    warn,
)
from eip.data.labels import Labels
from eip.errors import InputError


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="A data set; --list shows them.")] = None,
    to: Annotated[
        Path, typer.Option(help="Folder for data sets; this one's files go to TO/NAME.")
    ] = Path("data"),
    only: Annotated[
        str | None, typer.Option(help="Only files like that: aspirin, or a pattern, 'a*.npz'.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the data sets, with licence and citation.")
    ] = False,
    progress: Progress = True,
) -> None:
    """Download a published data set; a download that was cut goes on where it stopped."""
    from eip.data import fetch as fetching
    from eip.verbs import fetch as verb

    if list_ or name is None:
        list_data_sets()
        if not list_:
            raise InputError("which data set? Give the name of one of them")
        return
    data_set = fetching.find_data_set(name)
    with download_bars(progress) as bars:

        def reporter(file: str) -> fetching.Report:
            task = bars.add_task(file, total=None)
            return lambda there, total: bars.update(task, completed=there, total=total)

        with resumable("what has arrived is kept, and the same command goes on"):
            folder = verb.fetch(name, to, only=only, reporter=reporter, log=show)
    show(f"Files: {folder}    licence: {data_set.licence}    to cite: {data_set.cite}")
    if data_set.note:
        show(f"Note: {data_set.note}")


@app.command()
@takes(Labels, "labels", LABEL_NAMES)
def convert(
    sources: Annotated[
        list[Path], typer.Argument(help="Files of frames, or stores.", metavar="IN...")
    ],
    out_: Annotated[
        Path, typer.Argument(help="Folder of the new store; or a file, if .xyz.", metavar="OUT")
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only such frames: atoms<=200, elements=H,C,O (no others), contains=Li, "
            "without=Pb,U, labelled=forces. Several: all must hold."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="store, extxyz or deepmd (folders of DeePMD and DP-GEN); else by OUT."),
    ] = None,
    keys: Annotated[
        str, typer.Option(help="Of labels in extended xyz: ase, or mace (REF_energy, REF_forces).")
    ] = "ase",
    *,
    labels: Options,
    progress: Progress = True,
) -> None:
    """Convert frames to a store, which training maps into memory; goes on where it was stopped.

    Every training converts its own frames; that of large sets is worth doing once, and
    data.train, validation and test take the store. Other packages get extended xyz or DeePMD's
    folders, written whole or not at all.
    """
    from eip.data.convert import PARTIAL
    from eip.data.export import Exported, form_of
    from eip.data.frame import LABELS
    from eip.verbs import convert as verb

    kept = out_.with_name(out_.name + PARTIAL)
    left_behind = (
        f"what was converted is kept in {kept}, and the same command goes on"
        if form_of(out_, to) is None
        else "nothing was written, and the same command begins anew"
    )
    with resumable(left_behind), conversion_bar(progress) as tick:
        done = verb.convert(
            sources, out_, labels_from(labels), where or (), to=to, keys=keys, tick=tick
        )
    if isinstance(done, Exported):
        labelled = ", ".join(f"{n} of {count:,}" for n, count in done.labelled.items())
        left = f" ({done.left_out:,} left out)" if done.left_out else ""
        systems = f" in {len(done.systems):,} systems" if done.systems else ""
        show(f"{out_}: {done.frames:,} frames{left}{systems}, {done.atoms:,} atoms; {labelled}")
        return
    store = done.store
    if done.was_there:
        show(f"{out_} is there already, of the same files as they are now.")
    labelled = ", ".join(f"{n} of {int(store.has(n).sum()):,}" for n in LABELS)
    left = f" ({done.left_out:,} left out)" if done.left_out else ""
    show(
        f"{out_}: {len(store):,} frames{left}, {int(store.n_atoms.sum()):,} atoms of "
        f"{len(store.elements)} elements; {labelled}; {store.bytes / 1e6:,.0f} MB"
    )


@app.command()
@label_options
def info(
    path: Annotated[
        Path | None, typer.Argument(help="A model.eip, a run folder or a file of frames.")
    ] = None,
    *,
    labels: Options,
    device: Annotated[
        bool, typer.Option("--device", help="What runs where on this machine, and why.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare a store with its checksums; reads all of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a model (elements, training, calibration) or a file of frames (labels, ranges)."""
    from eip.verbs import info as verb

    if device:
        from eip.verbs.device import describe_device

        content = describe_device()
        if as_json:
            print(json.dumps(content, indent=2, ensure_ascii=False))
        else:
            _show_description("this machine", content)
        return
    if path is None:
        raise InputError("eip info takes a model, a run folder or a file of frames; or --device")
    if verify:
        from eip.data import FrameStore

        with bar(True, "verifying") as tick:
            FrameStore(path).verify(lambda done, total: tick(done / total))
        printing.err.print(f"{path} is what was written.", highlight=False, markup=False)
    path = verb.model_in(path)
    if as_json:
        content = verb.info(path, labels_from(labels))
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif verb.is_model(path):
        _show_description(str(path), verb.describe_model(path))
    else:
        summary, doubts = verb.summarize_files([path], labels_from(labels))
        show(summary.table(str(path)))
        for doubt in doubts:
            warn(f"Warning: {doubt}")


def _show_description(title: str, content: Mapping[str, Any]) -> None:
    table = Table(title=title, show_header=False)
    for key, value in content.items():
        table.add_row(f"[bold]{escape(key)}[/]", escape(lines_of(value)))
    show(table)
