"""The bill of materials of a bundle, read by CycloneDX's own schema."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device.manifest import Manifest, read_manifest, to_bytes
from tests.fakes.bundles import make_bundle
from toolchain.cli import app
from toolchain.sbom import sbom
from toolchain.terms.table import rows

LEDGER: dict[str, Any] = {
    "sources": [
        {
            "role": "base",
            "use": "weights",
            "name": "a/b",
            "licence": "Apache-2.0",
            "sha256": "1" * 64,
        },
        {
            "role": "data",
            "use": "trained",
            "name": "faq.jsonl",
            "licence": "CC-BY-4.0 OR LicenseRef-ours",
            "sha256": "2" * 64,
            "rows": 12,
            "subject": "customer",
            "url": "https://facts.example/a?b=c",
            "attribution": "© A. Author",
        },
        {"role": "data", "use": "trained", "name": "faq.jsonl"},
        {
            "role": "documents",
            "use": "beside",
            "name": "x",
            "url": "no link <b>",
            "sha256": "short",
        },
    ],
    "terms": {"result": "Apache-2.0 AND CC-BY-4.0", "unknown": ["data `faq.jsonl`"]},
}


def manifest(folder: Path, ledger: dict[str, Any]) -> Manifest:
    made = read_manifest(make_bundle(folder).path)
    return replace(made, ledger=ledger, gate={"mean_kl": 0.0123, "f1": 0.5, "other": "x"})


def faults(text: str) -> object:
    """Return what CycloneDX's strict schema finds wrong; None for nothing."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="install the dev extra")
    schema = pytest.importorskip("cyclonedx.schema")
    return validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize(
    "ledger",
    [
        {},
        LEDGER,
        {"sources": [{}]},
        {"terms": {"result": "LicenseRef-Llama-3.2", "conditions": ["a policy applies"]}},
        *({"sources": [{"role": "data", "name": "x", "licence": licence}]} for licence in rows()),
    ],
)
def test_its_own_schema_accepts_the_bill_of_materials(
    ledger: dict[str, Any], tmp_path: Path
) -> None:
    assert faults(json.dumps(sbom(manifest(tmp_path / "b", ledger)))) is None


def test_a_broken_bill_would_be_seen() -> None:
    assert faults('{"bomFormat": "CycloneDX", "specVersion": "1.6", "colour": 1}') is not None


def test_it_names_every_file_and_every_source_with_its_terms(tmp_path: Path) -> None:
    bill = sbom(manifest(tmp_path / "b", LEDGER))
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert {"file:model.bin", "file:goldens.jsonl", "source:0", "source:3", "engine"} <= set(parts)
    assert parts["source:1"]["licenses"] == [{"expression": "CC-BY-4.0 OR LicenseRef-ours"}]
    assert parts["source:1"]["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]
    assert "licenses" not in parts["source:2"]
    assert "externalReferences" not in parts["source:3"]
    model = bill["metadata"]["component"]
    assert model["modelCard"]["modelParameters"]["datasets"] == [
        {"ref": f"source:{number}"} for number in (1, 2, 3)
    ]
    limits = model["modelCard"]["considerations"]["technicalLimitations"]
    assert limits == ["terms unknown: data `faq.jsonl`"]


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b").path
    made = replace(read_manifest(folder), ledger=LEDGER)
    (folder / "manifest.json").write_bytes(to_bytes(made))
    for name in ("one.json", "two.json"):
        out = CliRunner().invoke(app, ["inspect", str(folder), "--sbom", str(tmp_path / name)])
        assert "faq.jsonl  CC-BY-4.0 OR LicenseRef-ours, subject customer" in out.stdout
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_only_a_bundle_has_one(tmp_path: Path) -> None:
    from toolchain.errors import ConfigError
    from toolchain.sbom import write_sbom

    with pytest.raises(ConfigError) as caught:
        write_sbom(tmp_path, tmp_path / "x.json")
    assert caught.value.message == f"{tmp_path}: --sbom is for a bundle folder"
    assert not (tmp_path / "x.json").exists()
