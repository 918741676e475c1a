"""CUDA llama.cpp on one card: built, compared with the CPU image, measured against llama-bench.

python3 benchmarks/gpu/cuda_run.py PACK --out OUT [--seconds 280] [--flash] [--built FOLDER]
python3 benchmarks/gpu/cuda_run.py PACK --out OUT --seconds 7200 --build-only 9.0

PACK is the folder of `cuda_pack.py`. Needs nvcc, cmake, ninja and Python 3.10, and no network. Each
step has its share of the time; what was found so far is in OUT/cuda.json after each of them. The
standard library alone, so that a bare machine can run it.

C1  our decode loop ≥ 0.97 × llama-bench's tg on the same card and build
C2  greedy tokens of ≥ 9 of 10 answers equal to the CPU image's, the rule for another processor
C3  `fit` within 5 % of the memory of the card that a loaded model takes, CUDA's share with it

`--flash` compiles the flash attention kernels too: minutes more. `--built` is a folder with the
libraries and llama-bench, as `--build-only SM` leaves them in OUT/bin on a machine that has nvcc
and no card: then nothing is compiled on the card's time.
`--without-cuda` builds for the processor, to try this script where there is no card. Without it a
machine that has no card, no compiler or no pack is refused before anything is compiled.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MB = 1 << 20
PROMPT_TOKENS, ANSWER_TOKENS, REPEAT = 512, 128, 5
ROUNDS = 2
"""Times that our loop and llama-bench take turns."""
THREADS = 1
"""Threads of the processor, which has nothing to compute where all layers are on the card."""
LONGEST_ANSWER = 48
CUDA_MB = 512
"""Memory that `fit` keeps for CUDA itself: `CUDA_BYTES` of device/manifest/memory.py."""
# Written again: this file is run where the package is not. A test holds the two together.
Found = dict[str, Any]


class Run:
    """One run: its folders, its time, and what it found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.pack: Path = options.pack.resolve()
        self.out: Path = options.out.resolve()
        self.work = Path(tempfile.mkdtemp())
        self.until: float = time.monotonic() + options.seconds
        self.cuda = not options.without_cuda
        self.flash = options.flash
        self.bin: Path = options.built.resolve() if options.built else self.work / "build" / "bin"
        self.is_built = options.built is not None
        self.sm: str = options.build_only
        self.environment = {**os.environ, "LD_LIBRARY_PATH": _library_path()}
        self.about: Found = json.loads((self.pack / "about.json").read_text("utf-8"))
        self.found: Found = {"not_reached": []}

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def keep(self, name: str, value: Any) -> None:
        """Keep a finding at once: the machine may be taken away."""
        self.found[name] = value
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "cuda.json").write_text(json.dumps(self.found, indent=1) + "\n", "utf-8")


def main() -> None:
    """Do every step for which there is time, and print the table."""
    options = _options()
    _refuse_missing(options)
    run = Run(options)
    if run.sm:
        run.keep("machine", {**machine(run), "sm": run.sm})
        _compile(run)
        shutil.copytree(run.bin, run.out / "bin", dirs_exist_ok=True)
        shutil.rmtree(run.work)
        return
    steps = (
        ("machine", 0, machine),
        ("build", 60, build),
        ("tokens", 15, tokens),
        ("speed", 20, speed),
        ("memory", 10, memory),
    )
    for name, least_s, step in steps:
        if run.left_s < least_s:
            run.keep("not_reached", [*run.found["not_reached"], name])
            continue
        began = time.monotonic()
        try:
            run.keep(name, {**step(run), "seconds": round(time.monotonic() - began, 1)})
        except (subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
            run.keep(name, {"failed": _reason(error)})
            if name == "build":
                break
    shutil.rmtree(run.work)
    print(table(run.found))


def _refuse_missing(options: argparse.Namespace) -> None:
    """End the program with a sentence if what the run needs is not there."""
    problem = ""
    if not (options.pack / "about.json").is_file():
        problem = f"{options.pack}: no pack of cuda_pack.py"
    elif options.built and not (options.built / "llama-bench").is_file():
        problem = f"{options.built}: no `llama-bench`, which --build-only leaves there"
    elif options.without_cuda:
        return
    elif not options.built and not _output([_nvcc(), "--version"]):
        problem = "no `nvcc`: CUDA's compiler is not installed"
    elif not options.build_only and not _output(["nvidia-smi", "-L"]).strip():
        problem = "no card: `nvidia-smi` names none; --without-cuda tries the script without one"
    if problem:
        raise SystemExit(f"error: {problem}")


def _nvcc() -> str:
    return shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"


def machine(run: Run) -> Found:
    """Return the card, the compiler and the processor."""
    query = "--query-gpu=name,memory.total,memory.used,compute_cap,driver_version"
    cards = _output(["nvidia-smi", query, "--format=csv,noheader,nounits"]) if run.cuda else ""
    cells = [cell.strip() for cell in (cards.splitlines() or [""])[0].split(",")]
    nvcc = _nvcc()
    release = re.search(r"release ([\d.]+)", _output([nvcc, "--version"])) if run.cuda else None
    return {
        "card": ",".join(cells[:-4]) if len(cells) >= 5 else "no card",
        "memory_total_mb": int(cells[-4]) if len(cells) >= 5 else 0,
        "sm": cells[-2] if len(cells) >= 5 else "",
        "driver": cells[-1] if len(cells) >= 5 else "",
        "nvcc": nvcc,
        "cuda": release[1] if release else "",
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }


# build --------------------------------------------------------------------------------------------


def build(run: Run) -> Found:
    """Compile the libraries and llama-bench, and put the libraries into a runtime."""
    run.work.mkdir(parents=True, exist_ok=True)
    if not run.is_built:
        _compile(run)
    ready = run.work / "runtime"
    shutil.copytree(run.pack / "runtime", ready, dirs_exist_ok=True)
    libraries = ready / "llama_cpp" / "lib"
    shutil.rmtree(libraries)
    libraries.mkdir()
    for library in run.bin.glob("*.so*"):
        shutil.copy(library, libraries)
    sizes = {file.name: file.stat().st_size for file in libraries.iterdir()}
    return {"libraries": sizes, "flash_attention": run.flash, "compiled": not run.is_built}


def _compile(run: Run) -> None:
    """Compile llama.cpp's libraries and llama-bench into `run.bin`."""
    with tarfile.open(run.pack / "llama.cpp.tar.gz") as packed:
        # An archive of our own packing; Pythons before 3.10.12 know no filter.
        kept = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(run.work, **kept)  # type: ignore[arg-type]
    tree, made = run.work / "llama.cpp", run.work / "build"
    (tree / "tools" / "CMakeLists.txt").write_text("add_subdirectory(llama-bench)\n", "utf-8")
    _call(["cmake", "-G", "Ninja", "-S", tree, "-B", made, *_cmake(run)], run, "cmake")
    cores = str(run.found["machine"]["cores"])
    targets = ("llama", "llama-bench")
    _call(["cmake", "--build", made, "--parallel", cores, "--target", *targets], run, "ninja")


def _cmake(run: Run) -> list[str]:
    """Return cmake's options: those of `runtime build --cuda`, and what this machine needs."""
    about = run.found["machine"]
    options = [
        option.replace("@NVCC@", about["nvcc"]).replace("@SM@", about["sm"].replace(".", ""))
        for option in run.about["options"]
        if not option.startswith(("-DLLAMA_BUILD_COMMON", "-DLLAMA_BUILD_TOOLS"))
    ]
    options += ["-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_OPENSSL=OFF"]
    if not run.cuda:
        return [option for option in options if "CUDA" not in option]
    options += ["-DGGML_CUDA_NCCL=OFF", f"-DGGML_CUDA_FA={'ON' if run.flash else 'OFF'}"]
    if not any(Path("/usr/local/cuda").glob("**/stubs/libcuda.so")):
        options.append("-DGGML_CUDA_NO_VMM=ON")  # else the driver's library is linked
    return options + _cublas()


def _cublas() -> list[str]:
    """Return the folder of cuBLAS on a machine that has it from a Python package alone."""
    if any(Path("/usr/local/cuda").glob("**/libcublas.so")):
        return []
    for library in _packaged("libcublas.so.*"):
        include = library.parent.parent / "include"
        return [
            f"-DCUDA_cublas_LIBRARY={library}",
            f"-DCUDA_cublasLt_LIBRARY={next(library.parent.glob('libcublasLt.so.*'))}",
            f"-DCMAKE_CUDA_FLAGS=-I{include}",
            f"-DCMAKE_CXX_FLAGS=-I{include}",
        ]
    return []


def _packaged(name: str) -> list[Path]:
    """Return libraries of NVIDIA's Python packages, such as torch brings."""
    return [file for place in map(Path, sys.path) for file in place.glob(f"nvidia/*/lib/{name}")]


def _library_path() -> str:
    """Return where the loader finds CUDA's libraries, of a package or of the toolkit."""
    folders = {
        str(file.parent) for name in ("cublas", "cudart") for file in _packaged(f"lib{name}.so.*")
    }
    kept = os.environ.get("LD_LIBRARY_PATH", "")
    return ":".join([*sorted(folders), "/usr/local/cuda/lib64", *([kept] if kept else [])])


# tokens -------------------------------------------------------------------------------------------


def tokens(run: Run) -> Found:
    """Return how many greedy answers of the card are those of the CPU image, token by token."""
    requests = [
        {"op": "generate", "messages": messages, "max_tokens": LONGEST_ANSWER, "now": None}
        for messages in run.about["prompts"]
    ]
    said = {
        name: _scored(run, folder, requests)
        for name, folder in (("cpu", run.pack / "runtime"), ("card", run.work / "runtime"))
    }
    pairs = list(zip(said["cpu"], said["card"], strict=True))
    same = [sum(a == b for a, b in zip(*pair, strict=False)) for pair in pairs]
    longest = sum(max(map(len, pair)) for pair in pairs)
    return {
        "answers": len(pairs),
        "equal": sum(one == other for one, other in pairs),
        "tokens_equal": sum(same) / max(1, longest),
    }


def _scored(run: Run, runtime: Path, requests: Sequence[Found]) -> list[list[int]]:
    """Return the tokens of each answer, from a child process that runs a runtime."""
    lines = "".join(
        json.dumps({name: value for name, value in request.items() if value is not None}) + "\n"
        for request in requests
    )
    command = [sys.executable, "-sE", runtime, "score", "--model", run.pack / "model.gguf"]
    done = subprocess.run(
        [*map(str, command), "--context", "512"],
        input=lines,
        env=run.environment,
        capture_output=True,
        text=True,
        timeout=max(1.0, run.left_s),
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(f"score ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if bad := [answer for answer in answers if "tokens" not in answer]:
        raise ValueError(f"score said {json.dumps(bad[0])[:300]}")
    return [answer["tokens"] for answer in answers]


# speed --------------------------------------------------------------------------------------------


def speed(run: Run) -> Found:
    """Return our rates and llama-bench's of each shape, measured in turns, and their ratio."""
    found: Found = {}
    for shape in run.about["shapes"]:
        if run.left_s < 15:
            break
        file = _shape_file(run, shape)
        rates: dict[str, list[float]] = {"pp_ours": [], "pp_peer": [], "tg_ours": [], "tg_peer": []}
        for _ in range(ROUNDS):
            for who, rows in (("ours", _ours(run, file)), ("peer", _peer(run, file))):
                for row in rows:
                    test = "pp" if row["n_prompt"] else "tg"
                    rates[f"{test}_{who}"] += row["samples_ts"]
        medians = {name: round(statistics.median(each), 2) for name, each in rates.items()}
        found[shape["name"]] = {
            **medians,
            "pp_ratio": round(medians["pp_ours"] / medians["pp_peer"], 4),
            "tg_ratio": round(medians["tg_ours"] / medians["tg_peer"], 4),
            "n": len(rates["tg_ours"]),
            "read_gb_s": round(medians["tg_ours"] * shape["size"] / 1e9, 1),
        }
    return found


def _ours(run: Run, file: Path) -> list[Found]:
    words = ("--pp", PROMPT_TOKENS, "--tg", ANSWER_TOKENS, "--repeat", REPEAT, "--threads", THREADS)
    command = [sys.executable, "-sE", run.work / "runtime", "bench", "--model", file, *words]
    report = json.loads(_call(command, run, "bench").splitlines()[-1])
    rows: list[Found] = report["rows"]
    wanted = "CUDA" if run.cuda else "CPU"
    if rows[0]["backends"] != wanted:
        raise ValueError(f"our engine ran on {rows[0]['backends']}, not on {wanted}")
    return rows


def _peer(run: Run, file: Path) -> list[Found]:
    words = ("-p", PROMPT_TOKENS, "-n", ANSWER_TOKENS, "-r", REPEAT, "-t", THREADS, "-o", "json")
    layers = ("-ngl", 99) if run.cuda else ()
    command = [run.bin / "llama-bench", "-m", file, *words, *layers]
    rows: list[Found] = json.loads(_call(command, run, "llama-bench"))
    return rows


def _shape_file(run: Run, shape: Found) -> Path:
    """Return a file of a shape: its header, and each tensor's sample repeated."""
    file = run.work / f"{shape['name']}.gguf"
    if file.is_file():
        return file
    shutil.copy(run.pack / f"{shape['name']}.head", file)
    with file.open("r+b") as stream:
        stream.truncate(shape["size"])
        for offset, size, packed in shape["tensors"]:
            sample = base64.b64decode(packed)
            stream.seek(offset)
            stream.write((sample * (size // len(sample) + 1))[:size])
    return file


# memory -------------------------------------------------------------------------------------------

_HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from device.engine import load
from device.engine.base import Settings
engine = load(Path(sys.argv[2]), Settings(context=int(sys.argv[3])))
engine.time_prompt(512)
engine.time_decode(8)
print("loaded", flush=True)
sys.stdin.read()
"""


def memory(run: Run) -> Found:
    """Return the card's memory that each loaded shape takes, and what `fit` expects of it."""
    if not run.cuda:
        return {"not_measured": "there is no card"}
    found: Found = {}
    for shape in run.about["shapes"]:
        before = _used_mb()
        used = _held_mb(run, _shape_file(run, shape)) - before
        expected = shape["fit_bytes"] / MB
        found[shape["name"]] = {
            "used_mb": used,
            "model_expected_mb": round(expected, 1),
            "cuda_and_rest_mb": round(used - expected, 1),
        }
    return found


def _held_mb(run: Run, file: Path) -> int:
    command = [sys.executable, "-sE", "-c", _HOLD, run.work / "runtime", file, run.about["context"]]
    with subprocess.Popen(
        [str(word) for word in command],
        env=run.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout and child.stdin
        try:
            if child.stdout.readline().strip() != "loaded":
                raise ValueError("the model was not loaded")
            return _used_mb()
        finally:
            with contextlib.suppress(OSError):
                child.stdin.close()


def _used_mb() -> int:
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(_output(words).splitlines()[0])


# table --------------------------------------------------------------------------------------------


def table(found: Found) -> str:
    """Return the findings against the goals, as Markdown; what was not reached is said."""
    about = found.get("machine", {})
    head = f"{about.get('card', '?')}, SM {about.get('sm', '?')}, CUDA {about.get('cuda', '?')}"
    rows = [("goal", "measured", "holds"), ("---", "---", "---")]
    compared = found.get("tokens", {})
    if "equal" in compared:
        holds = compared["equal"] >= 0.9 * compared["answers"]
        said = f"{compared['equal']} of {compared['answers']} answers equal"
        rows.append(("C2 ≥ 9 of 10 answers equal", said, _yes(holds)))
    for name, each in found.get("speed", {}).items():
        if isinstance(each, dict):
            rates = f"{each['tg_ours']:g} against {each['tg_peer']:g} tokens/s, {each['tg_ratio']}"
            rows.append(
                (f"C1 tg ≥ 0.97 × llama-bench, {name}", rates, _yes(each["tg_ratio"] >= 0.97))
            )
    for name, each in found.get("memory", {}).items():
        if isinstance(each, dict):
            whole = each["model_expected_mb"] + CUDA_MB
            near = abs(each["used_mb"] - whole) <= 0.05 * each["used_mb"]
            said = (
                f"{each['used_mb']} MB used, {whole:.0f} MB expected with {CUDA_MB} for CUDA, "
                f"which took {each['cuda_and_rest_mb']:.0f}"
            )
            rows.append((f"C3 fit within 5 % of what is used, {name}", said, _yes(near)))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    missing = [
        f"failed: {name}: {each['failed']}"
        for name, each in found.items()
        if isinstance(each, dict) and "failed" in each
    ]
    missing += [f"not reached: {name}" for name in found["not_reached"]]
    return "\n".join([head, "", *lines, "", *missing])


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def _call(command: Sequence[object], run: Run, what: str) -> str:
    """Return what a command prints; raise ValueError with its last words if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=run.environment,
        capture_output=True,
        text=True,
        timeout=max(1.0, run.left_s),
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise ValueError(f"{what} ended with {done.returncode}: {said}")
    return done.stdout


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return "the time was over"
    return f"{type(error).__name__}: {error}"[:800]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--flash", action="store_true")
    parser.add_argument("--built", type=Path, metavar="FOLDER")
    parser.add_argument("--without-cuda", action="store_true")
    parser.add_argument("--build-only", default="", metavar="SM", help="such as 9.0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
