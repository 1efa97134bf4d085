"""Compile the C++ libraries into a wheel; all else is in pyproject.toml.

RESNEXT_PREBUILT=1 demands them, RESNEXT_PREBUILT=0 makes a pure wheel. By default a wheel brings them if it is built on
x86-64 Linux with a C++ compiler and PyTorch (`pip wheel --no-build-isolation`); a pure one compiles them at first use.
"""

import os
import platform
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "src"
PILLOW_LIBJPEG = Path("libjpeg.so.62")  # the ABI of the libjpeg-turbo in Pillow's wheels


@cache
def decide_prebuilt() -> bool:
    """Return whether the wheel brings compiled libraries. Ends the build if they are demanded and cannot be made."""
    said = os.environ.get("RESNEXT_PREBUILT", "")
    if said in ("0", "no", "false"):
        return False
    sys.path.insert(0, str(SOURCE))
    lacking = [name for name in ("torch", "numpy", "PIL", "filelock") if find_spec(name) is None]
    if sys.platform != "linux" or platform.machine() != "x86_64":
        lacking.append("Linux on x86-64")
    if not lacking:
        from resnext.speed.compiler import STABLE_FLAG, find_compiler
        from resnext.speed.kernels import describe_norm_act_library

        lacking += [] if find_compiler() else ["a C++ compiler"]
        lacking += [] if STABLE_FLAG in describe_norm_act_library().get_flags() else ["PyTorch with the stable ABI"]
    if lacking and said:
        sys.exit(f"RESNEXT_PREBUILT={said} demands compiled libraries, for which this lacks: {', '.join(lacking)}")
    return not lacking


class BuildWithLibraries(build_py):
    """Put the compiled libraries beside the modules."""

    def run(self) -> None:
        """Copy the modules, then compile; an editable installation compiles at first use instead."""
        super().run()
        folder = Path(self.build_lib) / "resnext" / "speed" / "prebuilt"
        rmtree(folder, ignore_errors=True)  # of another build in the same folder
        if self.editable_mode or not decide_prebuilt():
            return
        from resnext.data.decode.turbojpeg import describe_jpeg_library
        from resnext.speed.compiler import find_compiler
        from resnext.speed.kernels import describe_norm_act_library
        from resnext.speed.prebuilt import write_prebuilt_libraries

        program = find_compiler()
        assert program is not None
        libraries = (describe_norm_act_library(), describe_jpeg_library(PILLOW_LIBJPEG))
        write_prebuilt_libraries(program, libraries, folder)


class TagPlatform(bdist_wheel):
    """Name the platform of a wheel with compiled libraries, which serve every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, ABI and platform."""
        return "py3", "none", "any" if self.root_is_pure else super().get_tag()[2]


class Package(Distribution):
    """The package, which is installed among the modules of a platform if it has compiled libraries."""

    def has_ext_modules(self) -> bool:
        """Return whether there is anything compiled."""
        return decide_prebuilt()


setup(distclass=Package, cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": TagPlatform})
