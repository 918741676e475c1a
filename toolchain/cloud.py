"""Files with which a recipe runs on rented computers: a task for SkyPilot, a job for Slurm.

Both do the same: install what this computer has, run the recipe, and run it again after they were
taken away. What a stage had finished is recorded in the work folder, and is not done again. Neither
SkyPilot nor Slurm is needed here: their programs read the files.
"""

import importlib.metadata
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain import extras
from toolchain.artifacts import RECORD, digest, recorded
from toolchain.cost import Cost, Offer, Workload
from toolchain.errors import ConfigError
from toolchain.files import write_whole
from toolchain.prices import Prices
from toolchain.recipe import Recipe

SKY, SLURM, PINS = "sky.yaml", "slurm.sh", "constraints.txt"
MOST_OFFERS = 4
"""Offers that a task names, the cheapest first."""
MARGIN = 3
"""Time limit of a job ÷ its expected time; it is queued again where it did not end."""
LEAST_H = 1
MAX_PATH = 1024
WARN_S = 120
"""Seconds before its end at which Slurm warns a job."""
_PLACE = "~/demitasse-cloud"
"""Folder on a rented computer."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[([\w., -]+)\])?")
_EXTRA = re.compile(r"""extra == ['"]([\w.-]+)['"]""")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
"""Names of buckets of all providers; Google's may have 222 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person says of the computers."""

    target: str
    bucket: str
    """Bucket that holds the work folder."""
    package: str
    """Requirement or wheel that installs demitasse there; empty: this version, by its name."""
    spot: bool

    @property
    def wheel(self) -> Path | None:
        """Return the wheel that travels with the task; None for what pip fetches itself."""
        is_file = self.package.endswith(".whl") and "://" not in self.package
        return Path(self.package) if is_file else None


def refuse(recipe: Recipe, asked: Asked) -> None:
    """Raise ConfigError for words that cannot stand in the files, or that would fail there."""
    # What is quoted for a shell may still end a line, and with it a block of YAML.
    if not f"{recipe.id}{recipe.folder.resolve()}".isprintable():
        raise ConfigError(
            f"{recipe.id!r}: a recipe whose path has characters that cannot be printed",
            hint="rename it: its name stands in the files",
        )
    if not _BUCKET.fullmatch(asked.bucket):
        raise ConfigError(
            f"--bucket: {asked.bucket[:60]!r} is no name of a bucket",
            hint="small letters, digits, dots, hyphens: such as my-work",
        )
    package = asked.package
    # A file or a folder of this computer is not there.
    is_here = bool(package) and not asked.wheel and Path(package).exists()
    if package and (is_here or not package.isprintable() or package.startswith("-")):
        raise ConfigError(
            f"--package: {package[:60]!r} is neither a wheel nor a requirement of pip",
            hint="such as demitasse-1.0-py3-none-any.whl, or demitasse==1.0",
        )
    if asked.wheel and not asked.wheel.is_file():
        raise ConfigError(f"--package: {package}: no such file", hint="it travels with the task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A recipe as it runs somewhere else."""

    recipe: Recipe
    asked: Asked
    extras: Sequence[str]
    """Extras of the package that its stages need."""
    works: Sequence[Workload]
    found: Cost
    prices: Prices

    @property
    def offers(self) -> list[Offer]:
        """Return the cheapest offers that SkyPilot rents, one for each kind of a provider."""
        if not self.works:
            return []
        best: dict[tuple[str, str], Offer] = {}
        for offer in self.found.offers:
            price, name = offer.price, self.prices.gpu_of(offer.price).skypilot
            if name and price.infra and offer.is_spot in (False, self.asked.spot):
                best.setdefault((price.infra, name), offer)
        return list(best.values())[:MOST_OFFERS]

    @property
    def requirement(self) -> str:
        """Return what pip is asked for."""
        given = self.asked.package
        more = f"[{','.join(self.extras)}]" if self.extras else ""
        if given:
            return f"{given}{more}" if self.asked.wheel else given
        return f"{extras.PACKAGE}{more}=={importlib.metadata.version(extras.PACKAGE)}"

    @property
    def limit_h(self) -> int:
        """Return the hours after which a job has to make room."""
        hours = self.offers[0].hours if self.offers else self.found.seconds / 3600
        return max(LEAST_H, math.ceil(hours * MARGIN))


def left_behind(recipe: Recipe) -> list[str]:
    """Return the files and folders that a recipe names outside of its own folder.

    SkyPilot brings the folder alone along; a cluster has them where its disk is shared.
    """
    home = recipe.folder.resolve()
    words = sorted(set(_texts_in(recipe.model_dump(mode="json"))))
    # Names alone lie in the folder, and a text is no path.
    paths = [word for word in words if "/" in word and len(word) < MAX_PATH and word.isprintable()]
    return [
        word
        for word in paths
        if not (place := (home / word).resolve()).is_relative_to(home) and place.exists()
    ]


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


def write(job: Job, folder: Path) -> list[Path]:
    """Write the files into a folder; return their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder}: cannot be made: {(error.strerror or '').lower()}"
        raise ConfigError(problem, hint="name another one with --out") from error
    texts = {
        SKY: _sky(job, folder),
        SLURM: _slurm(job, folder),
        PINS: pins([extras.PACKAGE, *(f"{extras.PACKAGE}[{each}]" for each in job.extras)]),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def pins(names: Iterable[str]) -> str:
    """Return the exact versions of what is installed here of some distributions and their needs.

    Other versions may make other bytes: what a stage made here would not be found there.
    """
    found: dict[str, str] = {}
    left = list(names)
    seen: set[str] = set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        base, _, extra = name.rstrip("]").partition("[")
        try:
            version = importlib.metadata.version(base)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        if base != extras.PACKAGE:
            # What follows a plus is the build of one index, and named on no other.
            found[base.lower().replace("_", "-")] = version.partition("+")[0]
        left += _needs(base, extra)
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found))


def _needs(name: str, extra: str) -> list[str]:
    """Return the distributions, and their extras, that one needs."""
    needs = []
    for line in importlib.metadata.requires(name) or ():
        asked = _EXTRA.search(line)
        match = _REQUIREMENT.match(line)
        if match and (asked is None or asked[1] == extra):
            needs.append(match[1])
            needs += [f"{match[1]}[{each.strip()}]" for each in (match[2] or "").split(",") if each]
    return needs


def mend(work: Path) -> list[str]:
    """Take away the records of stages whose files are not all there; return their folders.

    A bucket that is written behind a run may have a record, and not yet the files before it.
    """
    broken = []
    for file in sorted(work.glob(f"*/{RECORD}")):
        # What a kill left of a file that was being replaced is none of the outputs.
        file.with_name(f".{RECORD}.part").unlink(missing_ok=True)
        record = recorded(file.parent)
        if record is None or digest(file.parent, anew=True) != record.digest:
            file.unlink()
            broken.append(file.parent.name)
    return broken


# The files ----------------------------------------------------------------------------------------


def _said(job: Job) -> str:
    """Return in comments what it takes, by the table of prices."""
    lines = [f"{job.recipe.id}: {job.recipe.title}"]
    for offer in job.offers:
        price = offer.price
        spot = ", spot" if offer.is_spot else ""
        lines.append(
            f"about {offer.amount:.2f} {job.found.currency}: {offer.hours:.2f} h of one "
            f"{price.gpu}{spot}, {price.provider}, price of {price.date}"
        )
    if not job.offers:
        lines.append("no accelerator: what it takes is not known, or nothing is trained")
    lines += [f"assumed: {each}" for each in job.found.assumptions[1:2] if job.offers]
    # A line break in a title would end the comment: what follows would be run.
    return "".join(f"# {_one_line(line)}\n" for line in lines)


def _one_line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _sky(job: Job, folder: Path) -> str:
    """Return a task of SkyPilot's (docs.skypilot.co, "SkyPilot YAML")."""
    recipe, asked = job.recipe, job.asked
    pip = f"{_PLACE}/{PINS}"
    mounts = [f"  {pip}: {_quoted(folder.resolve() / PINS)}"]
    requirement = job.requirement
    if wheel := asked.wheel:
        mounts.append(f"  {_quoted(f'{_PLACE}/{wheel.name}')}: {_quoted(wheel.resolve())}")
        requirement = requirement.replace(asked.package, f"{_PLACE}/{wheel.name}")
    mounts += [
        "  /demitasse-work:",
        f"    name: {_quoted(asked.bucket)}",
        "    mode: MOUNT_CACHED",
    ]
    program = "~/demitasse-venv/bin/demitasse"
    run = _run(program, f"{recipe.id}.toml", asked.target, "/demitasse-work")
    setup = [*_PYTHON, f"~/demitasse-venv/bin/pip install --constraint {pip} {_shell(requirement)}"]
    return "\n".join(
        [
            _said(job).rstrip("\n"),
            f"# sky jobs launch {SKY}: it is started again elsewhere whenever it is taken away.",
            f"name: {_name(recipe.id)}",
            "resources:",
            *_resources(job),
            f"workdir: {_quoted(recipe.folder.resolve())}",
            "file_mounts:",
            *mounts,
            "setup: |",
            *(f"  {line}" for line in ("set -e", *setup)),
            "run: |",
            *(f"  {line}" for line in ("set -e", *run)),
            "",
        ]
    )


def _run(program: str, recipe: str, target: str, work: str) -> list[str]:
    """Return the commands that run a recipe, whatever was done of it before."""
    return [
        f"{program} cloud {shlex.quote(recipe)} --mend --out {work}",
        f"{program} run {shlex.quote(recipe)} --target {shlex.quote(target)} --out {work}",
    ]


_PYTHON = (
    "if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then",
    "  python3 -m venv ~/demitasse-venv",
    "else",
    "  conda create --yes --quiet --prefix ~/demitasse-python python=3.11",
    "  ~/demitasse-python/bin/python -m venv ~/demitasse-venv",
    "fi",
)


def _resources(job: Job) -> list[str]:
    common = ["  disk_size: 100", "  job_recovery: EAGER_NEXT_REGION"]
    if not job.offers:
        return [*common, "  cpus: 4+", "  memory: 16+", f"  use_spot: {_truth(job.asked.spot)}"]
    rows = [*common, "  any_of:"]
    for offer in job.offers:
        rows += [
            f"    - infra: {offer.price.infra}",
            f"      accelerators: {job.prices.gpu_of(offer.price).skypilot}:1",
            f"      use_spot: {_truth(offer.is_spot)}",
        ]
    return rows


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _slurm(job: Job, folder: Path) -> str:
    """Return a batch script (slurm.schedmd.com, "sbatch")."""
    work = folder.resolve().parent.parent
    venv = folder.resolve() / "venv"
    gpu = ["#SBATCH --gres=gpu:1"] if job.offers else []
    package = job.requirement
    if wheel := job.asked.wheel:
        package = package.replace(job.asked.package, str(wheel.resolve()))
    install = f'"$VENV/bin/pip" install --constraint "$FOLDER/{PINS}" {shlex.quote(package)}'
    recipe = str(job.recipe.folder.resolve() / f"{job.recipe.id}.toml")
    run = _run('"$DEMITASSE"', recipe, job.asked.target, '"$WORK"')
    return "\n".join(
        [
            "#!/bin/bash",
            _said(job).rstrip("\n"),
            f"# sbatch {SLURM}: it makes room when it is asked to, is queued again, and goes on.",
            f"#SBATCH --job-name={_name(job.recipe.id)}",
            "#SBATCH --ntasks=1",
            "#SBATCH --cpus-per-task=4",
            "#SBATCH --mem=16G",
            *gpu,
            f"#SBATCH --time={job.limit_h}:00:00",
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            f"#SBATCH --signal=B:TERM@{WARN_S}",
            "set -eu",
            f"FOLDER={shlex.quote(str(folder.resolve()))}",
            f"WORK={shlex.quote(str(work))}",
            f"VENV={shlex.quote(str(venv))}",
            'DEMITASSE="${DEMITASSE:-$VENV/bin/demitasse}"',
            "",
            'if [ ! -x "$DEMITASSE" ]; then',
            '  python3 -m venv "$VENV"',
            f"  {install}",
            "fi",
            "",
            "# Slurm sends TERM before the time is up. What is done is recorded: it goes on later.",
            "leave() {",
            # Not INT: a shell without a terminal starts what runs behind it deaf to that.
            '  kill -TERM "$RUNNING" 2>/dev/null || true',
            '  wait "$RUNNING" || true',
            '  if [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "  exit 0",
            "}",
            run[0],
            "trap leave TERM",
            f"{run[1]} &",
            "RUNNING=$!",
            'wait "$RUNNING"',
            "",
        ]
    )


def _name(text: str) -> str:
    """Return a name that both take: small letters, digits and hyphens."""
    return re.sub("[^a-z0-9-]+", "-", f"demitasse-{text}".lower()).strip("-")[:60]


def bucket_name(recipe: str) -> str:
    """Return the name of a bucket for a recipe."""
    return f"{_name(recipe)[:50]}-work"


def _quoted(text: object) -> str:
    """Return a text as a string of YAML: JSON's are."""
    return json.dumps(str(text), ensure_ascii=False)


def _shell(text: str) -> str:
    """Return a word of a shell whose `~/` is still expanded."""
    return f"~/{shlex.quote(text[2:])}" if text.startswith("~/") else shlex.quote(text)
