"""Compiles csrc/cpu into one shared library, by all cores: `python compile_cpu.py`.

The library calls oneDNN and OpenMP through the copies that Paddle brings and has loaded: it is
linked with neither, so that a process has one pool of threads. Only oneDNN's headers are needed,
which come as a wheel. `CXX`, `CXXFLAGS` and `LDFLAGS` are taken from the environment.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc/cpu"
BUILD = HERE / "build"
# The headers of oneDNN 3.6, which is the version in Paddle 3.3. The wheel's own requirement, the
# library itself, is not wanted: hence no build requirement.
HEADERS = "onednn-devel==2025.0.1"
COMPILER = shlex.split(os.environ.get("CXX", "g++"))
FLAGS = [
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fwrapv",
    "-fopenmp",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    *shlex.split(os.environ.get("CXXFLAGS", "")),
]
LINK_FLAGS = ["-shared", *shlex.split(os.environ.get("LDFLAGS", ""))]


def compile_library() -> Path:
    """The shared library; what is older than its source or a header is compiled anew.

    Raises:
        RuntimeError: with what the compiler says.
    """
    # What other flags or another compiler made is of no use.
    command = " ".join([*COMPILER, *FLAGS, *LINK_FLAGS])
    folder = BUILD / f"cpu-{hashlib.sha256(command.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    common = max(path.stat().st_mtime for path in (*SOURCES.glob("*.h"), Path(__file__)))
    objects = {source: folder / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.cc"))}
    changed = [
        source
        for source, path in objects.items()
        if not path.exists() or path.stat().st_mtime <= max(common, source.stat().st_mtime)
    ]
    library = folder / "llm_ops_cpu.so"
    if changed or not library.exists():
        _compile(changed, objects)
        _run([*COMPILER, *LINK_FLAGS, *map(str, objects.values())], library)
    return library


def _compile(sources: list[Path], objects: dict[Path, Path]) -> None:
    """Compile `sources` at the same time, as many as there are cores, and count them."""
    if not sources:
        return
    command = [*COMPILER, *FLAGS, f"-I{_headers()}", "-c"]
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    ends_line = "\r" if sys.stdout.isatty() else "\n"
    try:
        started = [pool.submit(_run, [*command, str(path)], objects[path]) for path in sources]
        for done, future in enumerate(as_completed(started), start=1):
            future.result()
            line = f"operators in C++: {done} of {len(sources)} files compiled"
            print(line, end="\n" if done == len(sources) else ends_line, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _run(command: list[str], result: Path) -> None:
    """Run a command that makes `result`, which is there only when it is whole."""
    part = result.with_name(f"{result.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [*command, "-o", str(part)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RuntimeError(f"There is no C++ compiler {command[0]}; CXX names another.") from None
    if done.returncode:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")
    part.replace(result)


def _headers() -> Path:
    """The folder of oneDNN's headers, which pip fetches once."""
    folder = BUILD / HEADERS
    if not folder.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as part:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*download, "--dest", part, HEADERS], check=True)
            with zipfile.ZipFile(next(Path(part).glob("*.whl"))) as wheel:
                wheel.extractall(part)
            next(Path(part).glob("*.data/data/include")).rename(folder)
    return folder


if __name__ == "__main__":
    try:
        compile_library()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
