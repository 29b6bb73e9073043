"""Everything else is in setup.cfg. Here: a wheel whose bytes do not depend on the umask of the checkout."""

from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class ReproducibleWheel(bdist_wheel):
    """A wheel in which every file has the same mode. SOURCE_DATE_EPOCH sets their times."""

    def write_wheelfile(self, *arguments: Any, **named: Any) -> None:
        """Write the last file of the wheel, then give all of them the same mode."""
        super().write_wheelfile(*arguments, **named)
        for path in Path(self.bdist_dir).rglob("*"):
            if path.is_file():
                path.chmod(0o644)


setup(cmdclass={"bdist_wheel": ReproducibleWheel})
