"""Quality by size on the starter's student: KL to the teacher and task score of every scheme.

llama.cpp's own quantizer is the peer. What is learned or chosen uses training text and the held-out
questions after the first 200; figures are of the first 200, through the device runtime. Finished
stages in build/, or in the folder that DEMITASSE_BUILD names, are used as they are; missing ones
are made. Writes docs/quality.svg and the table of docs/quality.md.
"""

import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from convert import llama_cpp

from device.manifest.gguf import tensor_digests
from toolchain import console, recipe, runtime, target
from toolchain.artifacts import Dataset, ModelFile, read_jsonl, recorded
from toolchain.evaluate import Candidate, Originals, Texts, evaluate
from toolchain.line.flow import Settings
from toolchain.line.formats import LEARNED
from toolchain.line.schemes import Tried, open_gate, try_schemes
from toolchain.models.original import Original
from toolchain.quantize.gguf import IMPORTANCE
from toolchain.quantize.gguf.schemes import SCHEMES, find_scheme
from toolchain.quantize.learned import importance
from toolchain.quantize.tflite.schemes import SCHEMES as TFLITE
from toolchain.recipe import InFormatSpec, Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "quality.md", ROOT / "docs" / "quality.svg"
MARK = "<!-- measured by benchmarks/quality.py -->"
PLAIN = ("Q4_K_M", "Q4_0")
"""Schemes that are measured without an importance matrix too."""
AUTO = ("auto:5.85bpw", "auto:5.55bpw", "auto:4.6bpw")
"""Budgets: those of Q4_K_M and Q4_0 on this student, and a smaller one."""
INT8 = "dynamic_wi8_afp32"
SERIES = {
    "imatrix": ("o", "named scheme, importance matrix"),
    "plain": ("x", "named scheme, plain"),
    "auto": ("D", "auto: types by measured damage"),
    "learned": ("*", "codes learned in the format"),
    "tflite": ("s", "TFLite"),
}
"""Marker and name of each kind of row."""
NAME_STEP = 1.2
"""Distance between names in the plot, as a ratio of KL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model file in the table and the plot."""

    name: str
    series: str
    """Key of SERIES."""
    size_bytes: int
    bits: float
    figures: dict[str, Any]
    """Figures of the gate."""
    each: tuple[float, ...]
    """KL of each conversation, in nats."""

    @classmethod
    def of(cls, name: str, series: str, model: ModelFile, verdict: Path) -> "Row":
        """Return the row of a model file; the gate wrote its figures to `verdict`."""
        return cls(
            name=name,
            series=series,
            size_bytes=model.file.stat().st_size,
            bits=model.figures.real_bpw,
            figures=json.loads((verdict / "verdict.json").read_text()),
            each=tuple(float(row["kl"]) for row in read_jsonl(verdict / "divergence.jsonl")),
        )


def main() -> None:
    """Measure, write the page, show the claims."""
    options = measure.options(__doc__ or "")
    with tempfile.TemporaryDirectory() as scratch, console.terminal() as report:
        wanted = _quick() if options.quick else _starter()
        build = (
            Path(scratch)
            if options.quick
            else Path(os.environ.get("DEMITASSE_BUILD", ROOT / "build"))
        )
        settings = Settings(
            out=build / wanted.id, target=target.find(wanted.targets[0]), report=report
        )
        names = ["Q8_0", "Q4_K_M", "Q4_0"] if options.quick else list(SCHEMES)
        lite = [INT8] if options.quick else [name for name in TFLITE if name != "fp32"]
        asked = [f"Q4_0{LEARNED}", *(AUTO[:1] if options.quick else AUTO), *names, *lite]
        tried = {one.scheme: one for one in try_schemes(wanted, settings, asked)}
        peers = _Peers(settings.out, Path(scratch))
        rows = [_row(one) for one in tried.values()] + [
            peers.plain(wanted, tried[name]) for name in PLAIN
        ]
        same = sum(peers.same_bytes(tried[name]) for name in names) / len(names)

    rows.sort(key=lambda row: -row.size_bytes)
    if not options.quick:
        PICTURE.write_bytes(picture(rows))
        head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
        PAGE.write_text(
            head + MARK + "\n\n" + table(rows) + "\n" + conditions(rows) + "\n", encoding="utf-8"
        )

    sys.stderr.write(table(rows))
    measure.show(_claims({row.name: row for row in rows}, same), {}, "", as_json=options.json)


def _starter() -> Recipe:
    wanted = recipe.load(ROOT / "recipes" / "starter.toml")
    return wanted.model_copy(
        update={"quantize": wanted.quantize.model_copy(update={"importance": True})}
    )


def _quick() -> Recipe:
    """Return the starter with hardly any training."""
    wanted = _starter()
    scratch = (
        wanted.model.scratch.model_copy(update={"steps": 20, "layers": 1})
        if wanted.model.scratch
        else None
    )
    learned = InFormatSpec(tokens=4000, compensated=32)
    changes = {
        "stages": ("ingest", "pretrain", "quantize", "evaluate"),
        "model": wanted.model.model_copy(update={"scratch": scratch}),
        "quantize": wanted.quantize.model_copy(update={"distill": learned}),
        "evaluate": wanted.evaluate.model_copy(
            update={"questions": 4, "kl_tokens": 200, "max_tokens": 8}
        ),
    }
    return wanted.model_copy(update=changes)


def _row(tried: Tried) -> Row:
    name = tried.scheme
    series = (
        "tflite"
        if name in TFLITE
        else "learned"
        if LEARNED in name
        else "auto"
        if name.startswith("auto:")
        else "imatrix"
    )
    return Row.of(
        f"TFLite {name}" if series == "tflite" else name, series, tried.model, tried.verdict.path
    )


class _Peers:
    """Files of the same checkpoint by llama.cpp's converter and quantizer."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._out = out
        self._scratch = scratch
        self._whole = scratch / "whole.gguf"
        checkpoint = next(
            out / stage for stage in ("distill", "tune", "pretrain") if (out / stage).is_dir()
        )
        self._originals = Originals(reference=Original(base=checkpoint))
        script = Path(__file__).parent / "peers" / "llama_cpp_convert.py"
        job = {"model": str(checkpoint), "out": str(self._whole)}
        jobs = json.dumps([job | {"type": "ALL_F32"}])
        subprocess.run(
            [sys.executable, str(script), str(llama_cpp())],
            input=jobs,
            text=True,
            check=True,
            capture_output=True,
        )

    def plain(self, wanted: Recipe, ours: Tried) -> Row:
        """Measure a scheme without an importance matrix."""
        file = self._quantize(ours.scheme, self._scratch / f"plain-{ours.scheme}", None)
        figures = ours.model.record.figures | {"file": file.name}
        record = ours.model.record.model_copy(
            update={"figures": figures, "digest": f"llama.cpp {ours.scheme}"}
        )
        model = ModelFile(path=file.parent, record=record)
        out = self._scratch / f"verdict-{ours.scheme}"
        held_out = Dataset(path=self._out / "ingest", record=_record(self._out / "ingest"))
        evaluate(
            Candidate(model=model, runtime=runtime.for_this_computer()),
            self._originals,
            Texts(dataset=held_out, split=True),
            open_gate(wanted.evaluate),
            out,
            console.Terminal(),
        )
        return Row.of(f"{ours.scheme}, plain", "plain", model, out)

    def same_bytes(self, ours: Tried) -> float:
        """Return the share of tensors with llama.cpp's bytes, both with one importance matrix."""
        theirs = self._quantize(
            ours.scheme, self._scratch / f"weighed-{ours.scheme}", ours.model.path / IMPORTANCE
        )
        mine, peers = (
            {t["name"]: t for t in tensor_digests(file)} for file in (ours.model.file, theirs)
        )
        return sum(peers.get(name) == tensor for name, tensor in mine.items()) / len(
            mine.keys() | peers.keys()
        )

    def _quantize(self, scheme: str, folder: Path, matrix: Path | None) -> Path:
        from llama_cpp import llama_cpp as library

        folder.mkdir()
        parameters = library.llama_model_quantize_default_params()
        parameters.ftype = find_scheme(scheme).file_type
        parameters.nthread = 1
        weights = importance.load(matrix).weights() if matrix else {}
        entries = [
            library.llama_model_imatrix_data(
                name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size
            )
            for name, values in weights.items()
        ]
        listed = (library.llama_model_imatrix_data * (len(entries) + 1))(
            *entries, library.llama_model_imatrix_data(name=None)
        )
        if matrix:
            parameters.imatrix = ctypes.cast(
                listed, ctypes.POINTER(library.llama_model_imatrix_data)
            )

        file = folder / "peer.gguf"
        if library.llama_model_quantize(bytes(self._whole), bytes(file), ctypes.byref(parameters)):
            raise SystemExit(f"llama.cpp did not make {scheme}")
        return file


def _record(folder: Path) -> Any:
    found = recorded(folder)
    assert found
    return found


def _claims(rows: dict[str, Row], same: float) -> list[measure.Claim]:
    learned, weighed, lite = rows[f"Q4_0{LEARNED}"], rows["Q4_0"], rows[f"TFLite {INT8}"]
    said = {
        "model": "the starter's student",
        "kl_tokens": learned.figures["kl_tokens"],
        "bytes": learned.size_bytes,
    }
    chosen = [row for row in rows.values() if row.series == "auto" and row.bits <= weighed.bits]
    found = [
        measure.paired(
            "q4_0: KL at equal bytes",
            "llama.cpp Q4_0, same imatrix",
            0.5,
            learned.each,
            weighed.each,
            said,
        ),
        measure.paired(
            "q4_0: KL, fewer bytes",
            "llama.cpp Q4_K_M, same imatrix",
            1.0,
            learned.each,
            rows["Q4_K_M"].each,
            said,
        ),
        measure.paired(
            "TFLite int8: KL",
            "GGUF Q8_0",
            2.0,
            lite.each,
            rows["Q8_0"].each,
            said | {"bytes": lite.size_bytes},
        ),
        measure.claim("same bytes", "llama_model_quantize, same imatrix", 1.0, [same], [1.0], said),
    ]

    for auto in sorted(chosen, key=lambda row: row.bits)[-1:]:
        bits = said | {"bytes": auto.size_bytes, "peer_bytes": weighed.size_bytes}
        found.append(
            measure.paired(
                "auto: KL within Q4_0's bytes",
                "llama.cpp Q4_0, same imatrix",
                1.0,
                auto.each,
                weighed.each,
                bits,
            )
        )

    return found


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    head = (
        "| file | kB | bits | KL ± error | KL 99 % | agreement | exact match | F1 |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    found = row.figures
    kl = f"{found['mean_kl']:.5f} ± {found['kl_error']:.5f} | {found['p99_kl']:.4f}"
    size = f"{row.size_bytes / 1000:.0f} | {row.bits:.2f}"
    score = f"{found['agreement']:.2%} | {found['exact_match']:.1%} | {found['f1']:.1%}"
    name = f"**{row.name}**" if row.series in ("learned", "auto") else row.name
    return f"| {name} | {size} | {kl} | {score} |\n"


def conditions(rows: Sequence[Row]) -> str:
    """Return the conditions under which the table was measured."""
    found = rows[0].figures
    tokens = f"{found['kl_tokens']} tokens of {len(rows[0].each)} held-out answers"
    counts = f"{tokens}, {found['questions']} questions"
    engines = {
        f"{each['engine_name']} {each['engine']} on {each['arithmetic']}"
        for each in (row.figures for row in rows)
    }
    return f"{counts}; {', '.join(sorted(engines, reverse=True))}; {measure.machine()['date']}."


def picture(rows: Sequence[Row]) -> bytes:
    """Return a plot of KL by size as SVG, the same bytes for the same rows.

    Files of 16 bits lie beyond its edge.
    """
    import io

    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "demitasse", "svg.fonttype": "path", "font.size": 9})
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.bits < 10]
    figure, axes = plt.subplots(figsize=(9, 6))
    for series, (marker, label) in SERIES.items():
        points = [row for row in shown if row.series == series]
        sizes = [row.size_bytes / 1000 for row in points]
        kl = [row.figures["mean_kl"] for row in points]
        errors = [row.figures["kl_error"] for row in points]
        large = 13 if marker == "*" else 6
        axes.errorbar(
            sizes, kl, yerr=errors, fmt=marker, ms=large, lw=0.8, capsize=2, label=label, alpha=0.85
        )

    for left in (True, False):
        _name(
            axes,
            [row for row in shown if (row.series in ("learned", "auto", "tflite")) == left],
            -60 if left else 45,
        )

    axes.set(yscale="log", xlabel="file, kB", ylabel="KL to the teacher, nats per token")
    axes.set_title("The starter's student, held-out answers")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.margins(x=0.22)
    axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return stream.getvalue()


def _name(axes: Any, rows: Sequence[Row], away_kb: float) -> None:
    """Write the names beside their points; where points are close, one below the other."""
    last = math.inf
    for row in sorted(rows, key=lambda row: -row.figures["mean_kl"]):
        size = row.size_bytes / 1000
        kl = row.figures["mean_kl"]
        last = min(kl, last / NAME_STEP)
        line = {"arrowstyle": "-", "lw": 0.4, "color": "grey"}
        side = "left" if away_kb > 0 else "right"
        name = row.name.removeprefix("TFLite ")
        axes.annotate(
            name,
            (size, kl),
            xytext=(size + away_kb, last),
            ha=side,
            va="center",
            fontsize=7,
            arrowprops=line,
        )


if __name__ == "__main__":
    main()
