"""On to a board: signs a bundle where the board wants that, pushes it, asks it and measures it.

Of several formats of one model the recipe's `choose` says which one stays on the board.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from device.manifest import BUNDLE_MANIFEST, RUNTIME_MANIFEST, Manifest
from toolchain import artifacts, runtime, signing, talk, target
from toolchain.artifacts import Bundle, Deployment, Report
from toolchain.bench import ANSWER_TOKENS, PROMPT_TOKENS, bench
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.cargo import manifest_of
from toolchain.choosing import Choose, Quality, Rival, choose
from toolchain.errors import (
    ArtifactError,
    ConfigError,
    FitError,
    HealthError,
    ToolchainError,
    TrustError,
    all_of,
)
from toolchain.line.flow import Step
from toolchain.profiles import profile_of
from toolchain.progress import Reporter
from toolchain.recipe import PackageSpec

if TYPE_CHECKING:
    from toolchain.push.delta import Patches
    from toolchain.updates import Leaving


_IDENTIFIES = re.compile(r"[0-9a-f]{12,64}")
"""Digits that say which release is meant; fewer could be those of a release made on purpose."""


class Product(Protocol):
    """What is delivered, by a recipe or as a finished model."""

    @property
    def id(self) -> str:
        """Name of the walk's folder."""

    @property
    def question(self) -> str:
        """Asked on the board when all is done; empty: nothing is."""

    @property
    def package(self) -> PackageSpec:
        """What the bundle says of itself."""

    @property
    def choose(self) -> Choose:
        """Which of several formats stays on a board."""


_PREPARING = Lock()
"""Held while a runtime is made and signed: once, however many boards wait for it."""
RECENT_S = 60.0
"""Seconds for which what was seen of a board counts."""
_LABELS = r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*"
_HOST_NAME = re.compile(_LABELS)
MAX_DEVICE_TYPE = 200
_ORIGIN = re.compile(rf"https?://({_LABELS}|\[[0-9a-f:.]+\])(:[0-9]{{1,5}})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a bundle on a board."""

    deployment: Deployment
    question: str
    answer: str
    report: Report
    file: str = ""
    """Name of the model file."""
    quality: Quality = field(default_factory=Quality)
    """What the gate measured of it."""
    others: tuple["Delivery", ...] = ()
    """The same model in other formats, which do not stay there."""
    why: str = ""
    """Why this one stays; empty if there was no other."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Model file that the board cannot run → why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a first look at a board saw."""

    facts: Mapping[str, Any]
    stored: Mapping[str, Any]
    at_s: float
    """Reading of the monotonic clock then."""

    def recent(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return facts and store if they are so young that nobody has to look again, else None."""
        # A push itself takes as long, by what it saw when it began; the board checks all of it.
        if time.monotonic() - self.at_s > RECENT_S:
            return None
        return dict(self.facts), dict(self.stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a bundle is pushed."""

    port: int
    accept_new: bool = False
    """Pin the key of a board that is seen for the first time, and there the key that signs, if it
    knows none."""
    sign: str = ""
    """The key to sign with; empty: the usual one, where a signature is needed and missing."""
    allow_unsigned: bool = False
    """Run it without a signature on a board that others could reach."""
    host_names: tuple[str, ...] = ()
    """Names by which the service may be called, beside its addresses and the board's own name."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the service."""
    seen: Seen | None = None
    """What the board was at a first look, before the walk."""


def host_name_of(text: str) -> str:
    """Return a host's name as a browser sends it; raise ConfigError for what is none."""
    name = text.strip().rstrip(".").lower()
    if not _HOST_NAME.fullmatch(name) or len(name) > 253:
        raise ConfigError(
            f"--host-name: `{text}`: not the name of a host",
            hint="a name alone, such as kitchen-pi.local: no scheme, no port, no wildcard",
        )
    return name


def origin_of(text: str) -> str:
    """Return an origin as a browser sends it; raise ConfigError for any other text."""
    origin = text.strip().rstrip("/").lower()
    if not _ORIGIN.fullmatch(origin):
        raise ConfigError(
            f"--cors-origin: `{text}`: not an origin",
            hint="scheme, host and port, such as http://kitchen.example:3000: no path, no wildcard",
        )
    return origin


def device_type_of(text: str) -> str:
    """Return a kind of device as an update server names it; raise ConfigError for what is none."""
    word = text.strip()
    if not word or not word.isprintable() or len(word) > MAX_DEVICE_TYPE:
        raise ConfigError(
            f"--device-type: {text[:60]!r} is no kind of device",
            hint=f"a name of 1 to {MAX_DEVICE_TYPE} characters that can be printed, such as till",
        )
    return word


def deliver(
    product: Product, steps: Sequence[Step], address: str, report: Reporter, terms: Terms
) -> Delivery:
    """Push the bundles of a walk to a board, ask and measure each there; one stays.

    A bundle that the board cannot run is left out if another one is left.
    """
    bundles = [step.artifact for step in steps if isinstance(step.artifact, Bundle)]
    if not bundles:
        raise ConfigError(f"{product.id}: stages: without `package` there is nothing to push")
    with open_board(address, accept_new=terms.accept_new) as connection:
        device = Device(connection, terms.seen.recent() if terms.seen else None)
        tried, refused = _try_all(product, bundles, device, report, terms)
        rivals = [
            Rival(name=each.file, quality=each.quality, report=each.report) for _, each in tried
        ]
        best, why = choose(rivals, product.choose)
        bundle, chosen = tried[best]
        if bundle is not bundles[-1]:
            push_to(bundle, device, report, terms)
        return replace(
            chosen,
            others=tuple(other for number, (_, other) in enumerate(tried) if number != best),
            why=why,
            left_out=refused,
        )


def _try_all(
    product: Product, bundles: Sequence[Bundle], device: Device, report: Reporter, terms: Terms
) -> tuple[list[tuple[Bundle, Delivery]], dict[str, str]]:
    """Return what became of each bundle, and why a board cannot run others.

    Raise their errors if it can run none.
    """
    tried: list[tuple[Bundle, Delivery]] = []
    refused: list[tuple[str, ToolchainError]] = []
    for bundle in bundles:
        try:
            tried.append((bundle, _try(product, bundle, device, report, terms)))
        except (FitError, HealthError) as error:
            name = manifest_of(bundle.path).model
            refused.append((name, error))
            report.note(f"{name} is left out: {error.message}")
    if not tried:
        raise all_of([error for _, error in refused])
    return tried, {name: error.message for name, error in refused}


def look_first(address: str, terms: Terms) -> Seen:
    """Return what a board is, before a walk.

    Raise FitError, BoardError or TrustError for one that could not run the walk's result.
    """
    from toolchain.push.fitness import refuse_board

    with open_board(address, accept_new=terms.accept_new) as connection:
        facts, stored = Device(connection).look()
        refuse_board(address, facts)
        return Seen(facts=facts, stored=stored, at_s=time.monotonic())


@contextmanager
def looking_first(address: str, terms: Terms) -> Iterator[Callable[[], Seen]]:
    """Look at a board while this computer looks at its recipe; yield what waits for the result.

    It raises as `look_first` does.
    """
    # Loaded before: two threads that import alike packages may find half of one.
    from toolchain.board import loopback, ssh, virtual  # noqa: F401
    from toolchain.push import fitness  # noqa: F401

    # A login and a start of Python take as long as the checks here, and more on a board.
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(look_first, address, terms).result


def _try(
    product: Product, bundle: Bundle, device: Device, report: Reporter, terms: Terms
) -> Delivery:
    """Push one bundle, ask it and measure it."""
    deployment = push_to(bundle, device, report, terms)
    answer = talk.ask(device, product.question)["text"] if product.question else ""
    report.note(f"bench: {device.address}")
    measured = _measured(device, product.package.context - 1)
    manifest = manifest_of(bundle.path)
    return Delivery(
        deployment=deployment,
        question=product.question,
        answer=answer,
        report=measured,
        file=manifest.model,
        quality=quality_of(manifest),
    )


def _measured(device: Device, longest: int) -> Report:
    """Measure a board with tests of `longest` tokens at most."""
    if device.kind.emulated:
        # Its figures say nothing, and the usual tests would take an hour there.
        return bench(device, pp=min(32, longest), tg=min(8, longest), repeat=1)
    return bench(device, pp=min(PROMPT_TOKENS, longest), tg=min(ANSWER_TOKENS, longest))


def quality_of(manifest: Manifest) -> Quality:
    """Return what the gate measured, as the bundle here says it."""
    gate = manifest.gate
    return Quality(
        kl=gate.get("mean_kl"),
        kl_error=gate.get("kl_error") or 0.0,
        agreement=gate.get("agreement"),
        exact_match=gate.get("exact_match"),
        size_bytes=sum(manifest.file(path).size for path in manifest.model_files),
    )


def push_bundle(
    folder: Path, address: str, report: Reporter, terms: Terms, *, dry_run: bool
) -> Deployment:
    """Push a bundle folder to a board, or say what that would send."""
    bundle = open_bundle(folder)
    with open_board(address, accept_new=terms.accept_new) as connection:
        return push_to(bundle, Device(connection), report, terms, dry_run=dry_run)


def sign_bundle(
    folder: Path, key: str, report: Reporter, *, release: str = ""
) -> signing.SigningKey:
    """Sign a bundle folder, so that it can be pushed from elsewhere; return the key.

    Raise TrustError unless it is the release whose first hex digits are given, where some are.
    """
    bundle = open_bundle(folder)
    if release and not _IDENTIFIES.fullmatch(release):
        raise ConfigError(
            f"--release: `{release}` is no release", hint="give 12 or more of its hex digits"
        )
    if not (seen := release_of(bundle)).startswith(release):
        raise TrustError(
            f"{folder}: release {seen[:12]}, not {release}",
            hint="do not sign it: it is not what was packaged where that release was made",
        )
    chosen = signing.find_key(key)
    signing.sign([bundle.path / BUNDLE_MANIFEST], chosen, report)
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """How a bundle leaves as an update."""

    form: str
    """`mender` or `hawkbit`."""
    device_types: tuple[str, ...] = ()
    """Kinds of device, as the update server names them; empty: the target."""
    with_runtime: bool = False
    sign: str = ""
    """The key to sign with; empty: the usual one, where a signature is missing."""


def leave_as(folder: Path, asked: Leave, out: Path, report: Reporter) -> "Leaving":
    """Return the update that a bundle folder leaves as: signed, for boards of its target."""
    from toolchain import updates

    updates.form_of(asked.form)
    bundle = open_bundle(folder)
    board = target.find(manifest_of(bundle.path).target)
    engine = runtime.for_target(_engine(bundle), board.profile, report)
    _sign([bundle.path / BUNDLE_MANIFEST, engine / RUNTIME_MANIFEST], asked.sign, report)
    parcel = updates.parcel_of(
        bundle.path, engine, asked.device_types, carries_runtime=asked.with_runtime
    )
    return updates.leave(parcel, asked.form, out)


def board_facts(address: str, *, accept_new: bool = False) -> Mapping[str, Any]:
    """Return what a board is, by what it reports itself."""
    with open_board(address, accept_new=accept_new) as connection:
        return Device(connection).facts()


def open_bundle(folder: Path) -> Bundle:
    """Return a finished bundle; raise ArtifactError for a folder or a file that is none."""
    if folder.is_file():
        raise ArtifactError(
            f"{folder}: a file, not a bundle",
            hint=f"`demitasse run {folder} --to BOARD` makes a bundle of a model file "
            "and pushes it",
        )
    record = artifacts.recorded(folder)
    if record is None or record.stage != "package":
        raise ArtifactError(
            f"{folder}: not a finished bundle", hint="`demitasse package RECIPE` makes one"
        )
    return Bundle(path=folder, record=record)


def release_of(bundle: Bundle) -> str:
    """Return the id of a bundle on boards: the sha256 of its manifest."""
    return sha256((bundle.path / BUNDLE_MANIFEST).read_bytes()).hexdigest()


def push_to(
    bundle: Bundle,
    device: Device,
    report: Reporter,
    terms: Terms,
    *,
    dry_run: bool = False,
    patches: "Patches | None" = None,
) -> Deployment:
    """Push a bundle to a board, with a signature if the board asks for one.

    Threads may push one bundle to several boards; they share `patches`.
    """
    from toolchain.push import push, refuse_at_first_look

    refuse_at_first_look(bundle.path, device)
    facts, stored = device.look()
    profile = profile_of(facts["machine"], facts["cpu_features"])
    unsigned = terms.allow_unsigned or device.kind.simulated
    manifest = bundle.path / BUNDLE_MANIFEST
    signs = not dry_run and bool(terms.sign or not unsigned)
    with _PREPARING:
        folder = runtime.for_board(_engine(bundle), profile, facts, report)
        manifests = [manifest, folder / RUNTIME_MANIFEST]
        key = _sign(manifests, terms.sign, report) if signs else None

    if signs:
        if terms.accept_new and not stored["signers"]:
            device.call("trust", "--signer", key.public if key else signing.find_key().public)
            device.look(again=True)
    elif not dry_run and not signing.signature_of(manifest):
        # Without a signature the record alone says what was made.
        signing.refuse_changed(manifest)
    return push(
        bundle,
        folder,
        device,
        report,
        port=terms.port,
        dry_run=dry_run,
        allow_unsigned=unsigned,
        names=(
            *(word for name in terms.host_names for word in ("--host-name", name)),
            *(word for origin in terms.cors_origins for word in ("--cors-origin", origin)),
        ),
        patches=patches,
    )


def _sign(manifests: list[Path], asked: str, report: Reporter) -> signing.SigningKey | None:
    """Sign the manifests that have no signature, all of them if a key is named; return the key.

    None if nothing was to be signed.

    Raise TrustError for a signature that is there and false.
    """
    missing = [manifest for manifest in manifests if not signing.signature_of(manifest) or asked]
    if not missing:
        return None
    key = signing.find_key(asked)
    signing.sign(missing, key, report)
    return key


def _engine(bundle: Bundle) -> str:
    return manifest_of(bundle.path).engine.name
