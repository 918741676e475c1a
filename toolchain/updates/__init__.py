"""Updates: a signed bundle in the form that an update server hands to boards.

The server, its client and its agent stay theirs. Ours are the file that travels and the program
that the client calls on the board: the same check, switch and way back as after a push.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from device.manifest.update import Update
from toolchain.artifacts import STARTED, Work, keep, recorded
from toolchain.cargo import release_cargo, runtime_cargo
from toolchain.config import Frozen, closest
from toolchain.errors import ConfigError, FitError
from toolchain.files import write_whole
from toolchain.updates import hawkbit, mender
from toolchain.updates.form import Form, Leaving, Parcel, UpdateFigures
from toolchain.updates.program import installer

__all__ = ["FORMS", "Leaving", "form_of", "leave", "parcel_of"]

FORMS: Mapping[str, Form] = {"mender": mender.FORM, "hawkbit": hawkbit.FORM}
"""Name in `package --as` → its row."""
_STAGE = "update"
_READMES = Path(__file__).with_name("readmes")


class _Parameters(Frozen):
    form: str
    device_types: tuple[str, ...]
    carries_runtime: bool
    signatures: tuple[str, ...]
    """sha256 of the signatures: they are no part of a bundle's digest."""
    program: str
    readme: str


def form_of(name: str) -> Form:
    """Return the row of a form; raise ConfigError that names the nearest one."""
    if name not in FORMS:
        raise ConfigError(f"--as: unknown form `{name[:40]}`", hint=closest(name, list(FORMS)))
    return FORMS[name]


def parcel_of(
    bundle: Path, runtime: Path, device_types: tuple[str, ...], *, carries_runtime: bool
) -> Parcel:
    """Return what leaves: a signed bundle, with or without the runtime that it needs."""
    manifest, release = release_cargo(bundle)
    described, engine = runtime_cargo(runtime)
    if manifest.engine.name not in described.engines:
        raise FitError(
            f"{runtime.name}: this runtime has no {manifest.engine.name}",
            hint="DEMITASSE_RUNTIME names another one: leave it out",
        )
    update = Update(
        release=release.id,
        runtime=engine.id,
        name=manifest.name,
        version=manifest.version,
        counter=manifest.counter,
        target=manifest.target,
    )
    return Parcel(
        update=update,
        release=release,
        runtime=engine if carries_runtime else None,
        device_types=device_types or (manifest.target,),
    )


def leave(parcel: Parcel, name: str, out: Path) -> Leaving:
    """Write a parcel in one form, with the program that boards install it with."""
    form = form_of(name)
    _refuse_foreign(out)
    program = installer(form.shell)
    readme = (_READMES / f"{name}.md").read_text(encoding="utf-8")
    signatures = [parcel.release.signature, parcel.runtime.signature if parcel.runtime else b""]
    parameters = _Parameters(
        form=name,
        device_types=parcel.device_types,
        carries_runtime=parcel.runtime is not None,
        signatures=tuple(sha256(each).hexdigest() for each in signatures),
        program=sha256(program).hexdigest(),
        readme=sha256(readme.encode()).hexdigest(),
    )
    work = Work(
        stage=_STAGE,
        inputs={"release": parcel.update.release, "runtime": parcel.update.runtime},
        parameters=parameters,
    )

    def fill(folder: Path) -> UpdateFigures:
        """Write the update, the program that installs it, and its README."""
        form.fill(parcel, folder)
        (folder / form.program).write_bytes(program)
        (folder / form.program).chmod(0o755)
        write_whole(folder / "README.md", _filled_in(readme, parcel))
        return UpdateFigures(
            release=parcel.update.release,
            runtime=parcel.update.runtime,
            carries_runtime=parcel.runtime is not None,
            update_bytes=sum(member.size for member in parcel.members()),
        )

    record, fresh = keep(out, work, fill, UpdateFigures)
    return Leaving(path=out, record=record, fresh=fresh)


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError for a folder that is no update: it would be emptied."""
    # It stands beside the bundle, which may lie among a person's own files.
    if out.is_dir() and not out.is_symlink():
        record = recorded(out)
        is_ours = (record and record.stage == _STAGE) or (out / STARTED).is_file()
        if is_ours or not any(out.iterdir()):
            return
    elif not (out.exists() or out.is_symlink()):
        return
    raise ConfigError(
        f"{out}: is there already and is no update, and would be replaced by one",
        hint="move it away, or the bundle into a folder of its own",
    )


def _filled_in(text: str, parcel: Parcel) -> str:
    """Return a README with the names of this update in it."""
    update = parcel.update
    carried = "is in the update" if parcel.runtime else "must be on the board already"
    facts = {
        "NAME": parcel.name,
        "MODEL": f"{update.name} {update.version}",
        "RELEASE": update.release,
        "RUNTIME": update.runtime,
        "CARRIED": carried,
        "TYPES": ", ".join(parcel.device_types),
    }
    for key, value in facts.items():
        text = text.replace(f"@{key}@", value)
    return text
