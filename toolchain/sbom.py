"""A bundle's bill of materials as CycloneDX 1.6 JSON: its files, its sources, their terms.

The same bundle gives the same bytes: the serial number is made from the release's id, and there is
no time in it. Source: CycloneDX 1.6, cyclonedx.org/docs/1.6/json.
"""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device.manifest import BUNDLE_MANIFEST, Manifest, ManifestError, read_manifest
from toolchain import extras
from toolchain.errors import ArtifactError, ConfigError
from toolchain.files import write_whole
from toolchain.terms.table import rows

Fields = dict[str, Any]
_LINK = re.compile(r"https?://[!-~]+")
_NO_IRI = set('<>"{}|\\^`')
_DIGEST = re.compile(r"[0-9a-f]{64}")
_METRICS = {
    "mean_kl": "mean KL divergence from the reference on held-out answers, nats per token",
    "agreement": "same next token as the reference on held-out answers, share",
    "general_kl": "mean KL divergence from the reference on general text, nats per token",
    "exact_match": "exact match on held-out questions, share",
    "f1": "token F1 on held-out questions, mean",
}
"""Figures of the gate that go into the model card, and what they are."""
_MODELS = ("base", "adapter", "teacher", "student", "embedder")


def write_sbom(bundle: Path, out: Path) -> None:
    """Write the bill of materials of a bundle folder; raise ConfigError for another folder."""
    if not (bundle / BUNDLE_MANIFEST).is_file():
        raise ConfigError(
            f"{bundle}: --sbom is for a bundle folder",
            hint="`demitasse package RECIPE` makes one",
        )
    try:
        manifest = read_manifest(bundle)
    except ManifestError as error:
        raise ArtifactError(f"{bundle.name}: {error}", hint="package it again") from error
    write_whole(out, json.dumps(sbom(manifest), ensure_ascii=False, indent=1) + "\n")


def sbom(manifest: Manifest) -> Fields:
    """Return the bill of materials of a bundle."""
    release = manifest.release_id()
    sources = [
        _source(number, source) for number, source in enumerate(manifest.ledger.get("sources", ()))
    ]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{entry.path}",
            "name": entry.path,
            "hashes": _hashes(entry.sha256),
        }
        for entry in manifest.files
    ]
    engine = {
        "type": "library",
        "bom-ref": "engine",
        "name": manifest.engine.name,
        "version": manifest.engine.oldest,
    }
    parts = [*files, *sources, engine]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(release[:32])}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": extras.PACKAGE,
                        "version": extras.version_of(extras.PACKAGE, "sbom"),
                    }
                ]
            },
            "component": _model(manifest, release, sources),
        },
        "components": parts,
        "dependencies": [{"ref": "release", "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _model(manifest: Manifest, release: str, sources: list[Fields]) -> Fields:
    datasets = [{"ref": each["bom-ref"]} for each in sources if each["type"] == "data"]
    metrics = [
        {"type": what, "value": f"{manifest.gate[name]:.6g}"}
        for name, what in _METRICS.items()
        if isinstance(manifest.gate.get(name), int | float)
    ]
    terms = manifest.ledger.get("terms", {})
    limits = [*terms.get("conditions", ()), *_unknown(terms)]
    return {
        "type": "machine-learning-model",
        "bom-ref": "release",
        "name": manifest.name,
        "version": manifest.version,
        **_licences(str(terms.get("result", ""))),
        "hashes": _hashes(manifest.file(manifest.model).sha256),
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                "architectureFamily": "transformer",
                **({"datasets": datasets} if datasets else {}),
            },
            **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
            **({"considerations": {"technicalLimitations": limits}} if limits else {}),
        },
        "properties": _properties(
            release=release, target=manifest.target, context=str(manifest.context)
        ),
    }


def _unknown(terms: Mapping[str, Any]) -> list[str]:
    return [f"terms unknown: {source}" for source in terms.get("unknown", ())]


def _source(number: int, source: Mapping[str, Any]) -> Fields:
    """Return a source of the ledger as a component."""
    role, name = str(source.get("role", "")), str(source.get("name", "")) or "unnamed"
    is_model = role in _MODELS
    fields: Fields = {
        "type": "machine-learning-model" if is_model else "data",
        "bom-ref": f"source:{number}",
        "name": name,
        **_licences(str(source.get("licence", ""))),
    }
    if source.get("attribution"):
        fields["copyright"] = source["attribution"]
    if _is_link(url := str(source.get("url", ""))):
        fields["externalReferences"] = [{"type": "website", "url": url}]
    digest = str(source.get("sha256", ""))
    if not is_model:
        fields["hashes"] = _hashes(digest)
        fields["data"] = [{"type": "dataset", "name": name, "description": _description(source)}]
    # The digest of a model is that of a folder, names and bytes: no hash of a file.
    folder = digest if is_model else ""
    fields["properties"] = _properties(
        role=role, use=str(source.get("use", "")), folder_sha256=folder
    )
    return fields


def _description(source: Mapping[str, Any]) -> str:
    rows = f"{source['rows']} rows; " if source.get("rows") is not None else ""
    subject = f"; each row is about its `{source['subject']}`" if source.get("subject") else ""
    return f"{rows}{source.get('role', '')}, {source.get('use', '')}{subject}"


def _licences(expression: str) -> Fields:
    """Return the licences of a component; nothing for unknown terms."""
    if not expression:
        return {}
    if " " in expression:
        return {"licenses": [{"expression": expression}]}
    row = rows().get(expression)
    if row and row.kind != "own" and not expression.startswith("LicenseRef-"):
        return {"licenses": [{"license": {"id": expression}}]}
    return {"licenses": [{"license": {"name": expression}}]}


def _hashes(sha256: str) -> list[Fields]:
    return [{"alg": "SHA-256", "content": sha256}] if _DIGEST.fullmatch(sha256) else []


def _is_link(url: str) -> bool:
    return bool(_LINK.fullmatch(url)) and not _NO_IRI & set(url)


def _properties(**values: str) -> list[Fields]:
    return [
        {"name": f"{extras.PACKAGE}:{name}", "value": value}
        for name, value in values.items()
        if value
    ]
