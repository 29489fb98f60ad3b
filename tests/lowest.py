"""Prints pip constraints that hold every dependency at the lowest version that pyproject.toml allows."""

import re
from itertools import chain
from pathlib import Path

import tomllib


def floors(project: dict) -> list[str]:
    """`name>=1.2,<2` as `name==1.2`, of the dependencies and of all extras."""
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    found = (re.match(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", one) for one in wanted)
    return sorted({f"{one[1]}=={one[2]}" for one in found if one})


if __name__ == "__main__":
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    print(*floors(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]), sep="\n")
