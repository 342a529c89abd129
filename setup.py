"""Which packages there are; all else is in pyproject.toml, where one folder has one name.

`cli/` is installed as `fungi_cli`, which `packages.find` has no words for.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["fungistore", "fungistore.*"]),
        "fungi_cli",
        *(f"fungi_cli.{name}" for name in find_packages("cli")),
    ],
    package_dir={"fungi_cli": "cli"},
)
