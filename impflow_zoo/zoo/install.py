"""The line that installs the package: from its repository before a release, from PyPI after it.

Version and address come from the metadata of the installed package, that is from `pyproject.toml`.
"""

from __future__ import annotations

from importlib.metadata import metadata

from packaging.version import Version

from impflow_zoo.models.fields import ModelError

__all__ = ["install_line", "repository", "requirement"]

_NAME = "impflow_zoo"


def repository() -> str:
    """The address of the repository of the code.

    Raises:
        ModelError: if the package was installed before its metadata named one.
    """
    for url in metadata(_NAME).get_all("Project-URL", ()):
        label, _, address = url.partition(", ")
        if label == "Source":
            return str(address)
    raise ModelError(
        f"the metadata of {_NAME} have no Source: install the package again, in a checkout by "
        "`pip install -e .`"
    )


def requirement(extra: str = "") -> str:
    """What pip finds today: PyPI has releases, the repository has what comes before one.

    Arguments:
        extra: name of an extra, such as `plot`.
    """
    wanted = f"{_NAME}[{extra}]" if extra else _NAME
    released = not Version(metadata(_NAME)["Version"]).is_prerelease
    return wanted if released else f"{wanted} @ git+{repository()}"


def install_line(extra: str = "") -> str:
    """The command that installs the `requirement`, for a shell.

    Arguments:
        extra: name of an extra, such as `plot`.
    """
    wanted = requirement(extra)
    return f"pip install {wanted}" if wanted == _NAME else f'pip install "{wanted}"'
