"""Pages of the documentation site that are made as it is built: those from the repository's root, and the reference.

A hook of MkDocs, named in mkdocs.yml. Nothing of irl_ray imports it.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
             "cluster/README.md": "cluster.md"}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    made = {page: from_root(name) for name, page in FROM_ROOT.items()}
    made |= {"commands.md": commands(), "settings.md": settings()}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links of pages to the repository's root, which GitHub follows, as links to the pages made of it."""
    for name, page in FROM_ROOT.items():
        markdown = markdown.replace(f"](../../{name}", f"]({page}")
    return markdown


def from_root(name: str) -> str:
    """A page of the repository, with its links as they are from irl_ray/docs."""

    def moved(link: re.Match) -> str:
        path, anchor = link[1], link[2] or ""
        target = ((ROOT / name).parent / path).resolve().relative_to(ROOT).as_posix()
        if target in FROM_ROOT:
            return f"]({FROM_ROOT[target]}{anchor})"
        return f"]({target.removeprefix('irl_ray/docs/')}{anchor})" if target.startswith("irl_ray/docs/") else "]"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", moved, (ROOT / name).read_text(encoding="utf-8"))


def commands() -> str:
    """The command line, from its parsers."""
    from irl_ray.cli import irl_ray, rllib

    lines = ["# Command line", "", "Made from the parsers; `--help` says the same."]
    for parser in (rllib.parser(), irl_ray.parser()):
        for command in _leaves(parser):
            lines += [
                "",
                f"## {command.prog}",
                "",
                command.description or "",
                "",
                "| argument | meaning |",
                "|---|---|",
            ]
            for action in command._actions:
                if action.help != argparse.SUPPRESS and action.dest != "help":
                    lines.append(f"| {_name(action)} | {_cell(action.help or '')} |")
    return "\n".join(lines)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        told = {choice.dest: choice.help for choice in action._choices_actions}
        for name, child in action.choices.items():
            child.description = child.description or f"{told.get(name) or ''}."
            yield from _leaves(child)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    takes = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"`{option}{takes}`" for option in action.option_strings if not option.startswith("--no-"))


def settings() -> str:
    """The keys of a file's `config`, from the dataclasses and methods that read them: type, default, meaning."""
    from irl_ray.models.code_policy import CodePolicyConfig
    from irl_ray.models.metacontroller import MetacontrollerConfig
    from irl_ray.models.sequence_model import SequenceModelConfig
    from irl_ray.phases.compile import CompileConfig
    from irl_ray.phases.discover import DiscoverConfig
    from irl_ray.phases.hindsight import TeacherConfig
    from irl_ray.phases.pretrain import PretrainConfig
    from irl_ray.phases.training import OptimizerConfig
    from irl_ray.rllib.algorithms import EpisodePolicyGradientConfig, InternalRLConfig

    parts = [
        "# Settings",
        "What a file's `config` may say, by `run`, beside `env` and `env_config`, the world. A preset "
        "(`preset: small`) lays its own values over these defaults; `irl-ray card WEIGHTS` shows what weights were "
        "made with.",
    ]
    sections = {
        "Pretrain": PretrainConfig,
        "Discover": DiscoverConfig,
        "CompILE": CompileConfig,
        "model": SequenceModelConfig,
        "metacontroller": MetacontrollerConfig,
        "optimizer": OptimizerConfig,
        "teacher": TeacherConfig,
        "policy": CodePolicyConfig,
    }
    for title, kind in sections.items():
        parts.append(f"## `{title}`\n\n{_table(_fields(kind))}")
    default = InternalRLConfig()
    for title, method in (
        ("InternalRL", InternalRLConfig.internal),
        ("InternalRL and RawRL", EpisodePolicyGradientConfig.training),
    ):
        parts.append(f"## `{title}`\n\n{_table(_arguments(method, default))}\n\nAnd RLlib's own, such as `lr`, "
                     "`num_epochs`, `num_env_runners`, `seed` and `evaluation_interval`.")  # fmt: skip
    return "\n\n".join(parts)


Row = tuple[str, str, str, str]


def _table(rows: Iterator[Row]) -> str:
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *map(_row, rows)])


def _row(cells: Row) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fields(kind: type) -> Iterator[Row]:
    meanings: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        meanings |= _described(parent.__dict__.get("__doc__") or "", "Attributes")
    for field in dataclasses.fields(kind):
        if field.name == "world":  # in a file it is `env`
            continue
        missing = field.default is dataclasses.MISSING
        made = missing and field.default_factory is not dataclasses.MISSING
        default = "below" if made else "required" if missing else f"`{field.default!r}`"
        yield f"`{field.name}`", f"`{field.type}`", default, meanings.get(field.name, "")


def _arguments(method: Any, default: Any) -> Iterator[Row]:
    meanings = _described(method.__doc__, "Args")
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield f"`{name}`", f"`{parameter.annotation}`", f"`{getattr(default, name)!r}`", meanings[name]


def _described(docstring: str, section: str) -> dict[str, str]:
    """Meanings by name, of a section of a docstring."""
    lines = inspect.cleandoc(docstring).split(f"{section}:\n")[-1].splitlines() if f"{section}:\n" in docstring else []
    found: dict[str, str] = {}
    name = None
    for line in lines:
        if not line.strip() or not line.startswith("    "):
            break
        if begins := re.match(r"    (\w[\w, ]*): (.*)", line):
            name, text = begins[1], begins[2]
            found |= {each.strip(): text for each in name.split(",")}
        elif name:
            for each in name.split(","):
                found[each.strip()] += " " + line.strip()
    return found
