"""The rest is in setup.cfg. Here: the documentation in the package, and a wheel that is the same everywhere."""

from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


class BuildWithDocs(build_py):
    """A build that copies the documentation into the package, where `dwhctl docs` finds it.

    The pages stay in docs/, where GitHub shows them; an editable installation reads them there.
    """

    def run(self) -> None:
        """Copy the modules, then the pages."""
        super().run()
        if not self.editable_mode:
            for page, copy in zip(PAGES, self._copies(), strict=True):
                copy.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(page), str(copy))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that a build writes."""
        return [*super().get_outputs(include_bytecode), *map(str, self._copies())]

    def get_source_files(self) -> list[str]:
        """Return the files that a source distribution needs."""
        return [*super().get_source_files(), *map(str, PAGES)]

    def _copies(self) -> list[Path]:
        return [Path(self.build_lib) / "dwhctl" / "docs" / page.name.lower() for page in PAGES]


class ReproducibleWheel(bdist_wheel):
    """A wheel in which every file has the same mode. SOURCE_DATE_EPOCH sets their times."""

    def write_wheelfile(self, *arguments: Any, **named: Any) -> None:
        """Write the last file of the wheel, then give all of them the same mode."""
        super().write_wheelfile(*arguments, **named)
        for path in Path(self.bdist_dir).rglob("*"):
            if path.is_file():
                path.chmod(0o644)


setup(cmdclass={"build_py": BuildWithDocs, "bdist_wheel": ReproducibleWheel})
