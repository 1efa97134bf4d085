"""Compile C++ sources at first use and cache the shared object by sources, flags and compiler.

The compiler is called with the flags of ``torch.utils.cpp_extension``, but without ninja, CUDA or Python headers. A
library of operators is compiled for PyTorch's stable ABI, where PyTorch has one, and then serves later releases too.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from resnext.speed.cache_folder import get_cache_folder, warn_once

COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-DNDEBUG")
COMPILE_TIMEOUT = 600  # time limit of a compilation, seconds


# What compiles and runs with this release of PyTorch also runs with later ones.
STABLE_TORCH = (2, 11)
STABLE_FLAG = f"-DTORCH_TARGET_VERSION=0x{STABLE_TORCH[0]:02x}{STABLE_TORCH[1]:02x}000000000000"


@dataclass(frozen=True)
class CompileUnit:
    """One source file to compile, with extra flags (for example an instruction set)."""

    source: Path
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """A C++ library of this package: what it is compiled from, and what happens without it.

    Units are linked in this order, and of functions that several of them define the linker takes the first: units for
    later instruction sets come last.
    """

    name: str
    units: tuple[CompileUnit, ...]
    headers: tuple[Path, ...] = ()
    uses_torch: bool = False  # whether it has operators of PyTorch
    fallback: str = "so plain PyTorch runs"

    def get_flags(self) -> tuple[str, ...]:
        """Return the flags of all units that say what is compiled, without folders of this machine."""
        return (*COMMON_FLAGS, *(_get_torch_flags() if self.uses_torch else ()))

    def compute_source_key(self) -> str:
        """Hash sources, flags and kind of processor: libraries of the same key do the same."""
        parts = [(unit.source.name, unit.flags) for unit in self.units]
        digest = hashlib.sha256(repr((platform.machine(), parts, self.get_flags())).encode())
        for path in (*(unit.source for unit in self.units), *self.headers):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def find_compiler() -> str | None:
    """Find the C++ compiler: $CXX, else c++, g++ or clang++; None if there is none."""
    said = os.environ.get("CXX")
    return shutil.which(said) if said else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def find_built_library(library: Library) -> Path | None:
    """Find the library among those this machine's compiler has built; None if it has not built this one."""
    program = find_compiler()
    target = _get_target(program, library) if program else None
    return target if target and target.exists() else None


def build_library(library: Library) -> Path | None:
    """Return the shared object of ``library``; compile it if the cache lacks it.

    If it cannot be built, the result is None, and a warning says why and what happens instead. A lock makes concurrent
    processes wait for a single compilation.
    """
    program = find_compiler()
    if program is None:
        warn_once(f"no C++ compiler, {library.fallback} (install g++ or clang++, or set CXX)")
        return None
    target = _get_target(program, library)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(target.with_suffix(".lock"), timeout=COMPILE_TIMEOUT):
            if not target.exists():
                warn_once(f"compiling {library.name}, once for this machine (a minute at most) ...")
                compile_library(program, library, target)
    except (OSError, subprocess.SubprocessError, TimeoutError) as error:
        warn_once(f"{library.name} could not be compiled, {library.fallback}: {_format_reason(error)}")
        return None
    return target


def compile_library(program: str, library: Library, target: Path, link_flags: Sequence[str] = ()) -> None:
    """Compile into a temporary folder beside ``target``, then rename, so that ``target`` is always complete.

    Raises subprocess.SubprocessError if the compiler fails, and OSError if a file cannot be written.
    """
    include, libraries = _get_torch_paths() if library.uses_torch else ((), ())
    flags = (*library.get_flags(), *include)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, ThreadPoolExecutor() as pool:
        objects = [str(Path(folder) / f"{number}.o") for number, _ in enumerate(library.units)]

        def compile_one(number: int) -> None:
            unit = library.units[number]
            _run_command(program, *flags, *unit.flags, "-c", str(unit.source), "-o", objects[number])

        list(pool.map(compile_one, range(len(library.units))))
        linked = Path(folder) / "linked.so"
        _run_command(program, "-shared", *objects, *libraries, *link_flags, "-o", str(linked))
        os.replace(linked, target)


def _run_command(*command: str) -> None:
    subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILE_TIMEOUT
    )


def _format_reason(error: Exception) -> str:
    """Return the compiler's first error line, or the text of another error."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines()
        return lines[0] if lines else str(error)
    return str(error)


@cache
def _get_torch_flags() -> tuple[str, ...]:
    """Return the flags that choose the stable ABI, or for an older PyTorch those of its own ABI and release."""
    import torch

    if torch.__version__ >= "{}.{}".format(*STABLE_TORCH):  # compared as versions, not as words
        return (STABLE_FLAG,)
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    return "-fopenmp", abi, f'-DRESNEXT_TORCH="{torch.__version__}"'


def _get_torch_paths() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the flags for PyTorch's headers, as torch.utils.cpp_extension gives them, and for its libraries."""
    import torch

    folder = Path(torch.__file__).parent
    headers, libraries = folder / "include", (f"-L{folder / 'lib'}", "-ltorch_cpu")
    folders = (headers, headers / "torch" / "csrc" / "api" / "include")
    include = tuple(word for path in folders for word in ("-isystem", str(path)))
    is_stable = STABLE_FLAG in _get_torch_flags()
    return include, libraries if is_stable else ("-fopenmp", *libraries, "-ltorch", "-lc10")


def _get_target(program: str, library: Library) -> Path:
    """Return the path that a library built by this compiler has in the cache."""
    key = hashlib.sha256(f"{_get_compiler_version(program)} {library.compute_source_key()}".encode())
    return get_cache_folder() / "lib" / f"{library.name}-{key.hexdigest()[:16]}.so"


@cache
def _get_compiler_version(program: str) -> str:
    return subprocess.run(
        [program, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60
    ).stdout
