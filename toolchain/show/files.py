"""What is inside a model file, or a model, adapter or bundle folder."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from toolchain import console
from toolchain.show.words import size

if TYPE_CHECKING:
    from toolchain.quantize.contents import Contents
    from toolchain.quantize.folders import FolderContents


def folder(inside: "FolderContents", *, as_json: bool) -> None:
    """Show what a model, adapter or bundle folder is."""
    if as_json:
        console.show_json(asdict(inside))
        return
    console.show_table((inside.name, inside.kind), [[name, text] for name, text in inside.rows])
    for warning in inside.warnings:
        console.show_text(f"\nwarning: {warning}")


def contents(inside: "Contents", *, tensors: bool, as_json: bool) -> None:
    """Show what is inside a model file."""
    if as_json:
        whole = asdict(inside)
        console.show_json(
            whole
            if tensors
            else {name: value for name, value in whole.items() if name != "tensors"}
        )
        return
    console.show_table((inside.file, ""), [row for row in _contents_rows(inside) if row[1]])
    shares = [
        [
            s.type,
            f"{s.tensors}",
            size(s.size_bytes),
            f"{s.bits:.2f}",
            f"{s.weights / inside.parameters:.1%}",
        ]
        for s in inside.types
    ]
    console.show_table(("\ntype", "tensors", "size", "bits", "of the weights"), shares)
    for warning in inside.warnings:
        console.show_text(f"\nwarning: {warning}")
    if tensors:
        rows = [
            [t.name, t.type, " × ".join(map(str, t.shape)), size(t.size)] for t in inside.tensors
        ]
        console.show_table(("\ntensor", "type", "shape", "size"), rows)


def _contents_rows(inside: "Contents") -> list[list[str]]:
    origin = [inside.name, f"from {inside.base}" if inside.base else "", inside.licence]
    specials = [f"{special.role} {special.id} `{special.text}`" for special in inside.specials]
    template = (
        f"{inside.template_sha256[:12]}  {inside.template_line}" if inside.template_sha256 else ""
    )
    return [
        ["kind", f"{inside.architecture} {inside.kind}, {inside.scheme}"],
        ["origin", ", ".join(part for part in origin if part)],
        [
            "size",
            f"{size(inside.size_bytes)}, {inside.parameters / 1e6:.1f} M parameters, "
            f"{inside.bits:.2f} bits per weight",
        ],
        ["shape", ", ".join(f"{value} {label}" for label, value in inside.shape.items())],
        ["context", f"{inside.context}" if inside.context else ""],
        ["rope", inside.rope],
        [
            "tokenizer",
            f"{inside.tokenizer}, {inside.vocabulary} tokens" if inside.vocabulary else "",
        ],
        ["special", ", ".join(specials)],
        ["template", template],
    ]
