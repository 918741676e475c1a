"""What is inside a model file, or a model, adapter or bundle folder."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from toolchain import console
from toolchain.show.words import size

if TYPE_CHECKING:
    from toolchain.quantize.contents import Contents
    from toolchain.quantize.folders import FolderContents


def folder(found: "FolderContents", *, as_json: bool) -> None:
    """Show what a model, adapter or bundle folder is."""
    if as_json:
        console.show_json(asdict(found))
        return
    console.show_table((found.name, found.kind), [[name, text] for name, text in found.rows])
    for warning in found.warnings:
        console.show_text(f"\nwarning: {warning}")


def contents(found: "Contents", *, tensors: bool, as_json: bool) -> None:
    """Show what is inside a model file."""
    if as_json:
        whole = asdict(found)
        console.show_json(
            whole
            if tensors
            else {name: value for name, value in whole.items() if name != "tensors"}
        )
        return
    console.show_table((found.file, ""), [row for row in _contents_rows(found) if row[1]])
    shares = [
        [
            s.type,
            f"{s.tensors}",
            size(s.size_bytes),
            f"{s.bits:.2f}",
            f"{s.weights / found.parameters:.1%}",
        ]
        for s in found.types
    ]
    console.show_table(("\ntype", "tensors", "size", "bits", "of the weights"), shares)
    for warning in found.warnings:
        console.show_text(f"\nwarning: {warning}")
    if tensors:
        rows = [
            [t.name, t.type, " × ".join(map(str, t.shape)), size(t.size)] for t in found.tensors
        ]
        console.show_table(("\ntensor", "type", "shape", "size"), rows)


def _contents_rows(found: "Contents") -> list[list[str]]:
    origin = [found.name, f"from {found.base}" if found.base else "", found.licence]
    specials = [f"{special.role} {special.id} `{special.text}`" for special in found.specials]
    template = (
        f"{found.template_sha256[:12]}  {found.template_line}" if found.template_sha256 else ""
    )
    return [
        ["kind", f"{found.architecture} {found.kind}, {found.scheme}"],
        ["origin", ", ".join(part for part in origin if part)],
        [
            "size",
            f"{size(found.size_bytes)}, {found.parameters / 1e6:.1f} M parameters, {found.bits:.2f} bits per weight",
        ],
        ["shape", ", ".join(f"{value} {label}" for label, value in found.shape.items())],
        ["context", f"{found.context}" if found.context else ""],
        ["rope", found.rope],
        ["tokenizer", f"{found.tokenizer}, {found.vocabulary} tokens" if found.vocabulary else ""],
        ["special", ", ".join(specials)],
        ["template", template],
    ]
