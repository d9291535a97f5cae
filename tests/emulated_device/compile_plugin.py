"""The emulated device as a library that Paddle loads: built once for a wheel and the sources.

`environment()` is what a process needs to find it. As a program this module only compiles.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent
ROOT = SOURCES.parent.parent
KEPT = ROOT / "output" / "emulated_device"
FLAGS = ("-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-DPADDLE_WITH_CUSTOM_DEVICE")
LIBRARIES = ("-lphi_core", "-lphi", "-lcommon", "-lrt", "-lpthread")
DEVICE = "emulated"

_DECLARED = re.compile(
    r"template <typename T, typename Context>\s*(?:PADDLE_API |TEST_API )?"
    r"void (\w+)Kernel\(\s*const Context&\s*\w*,([^;{]*?)\)\s*;"
)
_INCLUDED = re.compile(r'#include "([^"]+)"')
_LISTED = re.compile(r"(\w+)(?:\((.*)\))?( \[strided\])?$")
_UNSUPPORTED = re.compile("SelectedRows|SparseC|TensorArray|StringTensor|MetaTensor|Extended")


def compiler() -> str | None:
    """The C++ compiler: $CXX, or g++; None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


def build() -> Path:
    """The folder with the library; what has changed is compiled: sources, wheel or compiler."""
    objects = [_object(source) for source in sorted(SOURCES.glob("*.cc"))]
    folder = KEPT / _digest(*LIBRARIES, *(path.name for path in objects))
    if not (folder / "libemulated.so").exists():
        with tempfile.TemporaryDirectory(dir=_made(KEPT)) as name:
            _compile(Path(name), [path for path in objects if not path.exists()])
            made = _made(Path(name) / "made")
            _link(objects, made / "libemulated.so")
            # Another process may have been as fast.
            if not folder.exists():
                made.rename(folder)
    return folder


def environment(**settings: object) -> dict[str, str]:
    """Variables with which a process has the device, strictly; `settings` are the device's own.

    delay_us: the longest delay of a stream; lag_us: that of a collective; timeout_s: until a
    collective gives up; seed: of the delays; memory: bytes of the device.
    """
    return {
        "CUSTOM_DEVICE_ROOT": str(build()),
        # A kernel that the device lacks is an error, by name.
        "FLAGS_enable_api_kernel_fallback": "0",
        # Each tensor is a block of its own, which ends with the tensor.
        "FLAGS_auto_growth_chunk_size_in_mb": "0",
        "FLAGS_free_idle_chunk": "1",
        # Paddle does not hold what another stream uses: the program has to.
        "FLAGS_use_stream_safe_cuda_allocator": "0",
        **{f"EMULATED_DEVICE_{name.upper()}": str(value) for name, value in settings.items()},
    }


def _paddle() -> Path:
    found = importlib.util.find_spec("paddle")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _object(source: Path) -> Path:
    """Where a source's object is kept: named after all that goes into it."""
    wheel = importlib.metadata.version("paddlepaddle")
    text = source.read_text()
    included = {"device.h", *_INCLUDED.findall(text)}
    parts = [wheel, str(compiler()), *FLAGS, text]
    parts += [path.read_text() for path in sorted(SOURCES.glob("*.h")) if path.name in included]
    if "generated_kernels.h" in included:
        parts.append(generated_kernels(_paddle() / "include"))
    return KEPT / "objects" / f"{source.stem}-{_digest(*parts)}.o"


def _compile(folder: Path, objects: list[Path]) -> None:
    cxx, paddle = compiler(), _paddle()
    if cxx is None:
        raise RuntimeError("a C++ compiler is needed: install g++, or name one in CXX")
    (folder / "generated_kernels.h").write_text(generated_kernels(paddle / "include"))
    includes = [f"-I{folder}", f"-I{SOURCES}"]
    includes += [f"-isystem{paddle / 'include'}", f"-isystem{paddle / 'include/third_party'}"]
    _made(KEPT / "objects")

    def compiled(target: Path) -> None:
        source = SOURCES / f"{target.name.partition('-')[0]}.cc"
        _run([cxx, *FLAGS, *includes, "-c", str(source), "-o", str(folder / target.name)])
        (folder / target.name).rename(target)

    # The longest first.
    objects.sort(key=lambda target: not target.name.startswith("kernels"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, objects))


def _link(objects: list[Path], library: Path) -> None:
    folders = [_paddle() / "libs", _paddle() / "base"]
    search = [option for path in folders for option in (f"-L{path}", f"-Wl,-rpath,{path}")]
    cxx = compiler()
    assert cxx is not None
    _run([cxx, "-shared", "-o", str(library), *map(str, objects), *search, *LIBRARIES])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def generated_kernels(include: Path) -> str:
    """A header: FOR_EACH_KERNEL(WITH), where WITH(name, is_strided, signature) is for a kernel."""
    declared = _declarations(include)
    headers, calls = set(), []
    for line in (SOURCES / "kernel_names.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        listed = _LISTED.match(line)
        if listed is None:
            raise ValueError(f"kernel_names.txt: {line}")
        name, signature, strided = listed.groups()
        is_strided = str(strided is not None).lower()
        if signature is not None:
            calls.append(
                f"WITH({name}, {is_strided}, void (*)(const phi::CPUContext&, {signature}))"
            )
            continue
        if name not in declared:
            raise ValueError(f"kernel_names.txt: the wheel's headers do not declare {name}")
        function, header = declared[name]
        headers.add(header)
        own = f"decltype(&phi::{function}<float, phi::CPUContext>)"
        calls.append(f"WITH({name}, {is_strided}, {own})")
    lines = [f'#include "paddle/phi/kernels/{header}"' for header in sorted(headers)]
    body = " \\\n  ".join(calls)
    return "\n".join([*lines, f"#define FOR_EACH_KERNEL(WITH) \\\n  {body}", ""])


def _declarations(include: Path) -> dict[str, tuple[str, str]]:
    """By a kernel's name, its function and header, where the headers agree on the arguments."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for path in sorted((include / "paddle/phi/kernels").glob("*.h")):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        for camel, arguments in _DECLARED.findall(text):
            if not _UNSUPPORTED.search(arguments):
                alike = re.sub(r"\s+", " ", arguments)
                found.setdefault(_snake(camel), {}).setdefault(alike, (f"{camel}Kernel", path.name))
    return {name: next(iter(ways.values())) for name, ways in found.items() if len(ways) == 1}


def _snake(camel: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", camel).lower()


if __name__ == "__main__":
    print(build())
    sys.exit()
