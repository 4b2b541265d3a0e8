"""`llms.txt`: the pages of the site, for programs that read it (https://llmstxt.org)."""

from __future__ import annotations

from sphinx.environment import BuildEnvironment

from machinery.addresses import BASE, ROOT

_INTRODUCTION = " ".join((ROOT / "README.md").read_text("utf-8").split("\n\n")[1].splitlines())


def text(env: BuildEnvironment) -> str:
    """The file: every page that the start page leads to, with its title, by part of the site."""
    lines = ["# impflow_zoo", "", f"> {_INTRODUCTION}", ""]
    for part in env.tocs and _parts(env):
        lines += [f"## {part[0]}", ""]
        lines += [f"- [{env.titles[page].astext()}]({BASE}{page}.html)" for page in part[1]]
        lines.append("")
    return "\n".join(lines)


def _parts(env: BuildEnvironment) -> list[tuple[str, list[str]]]:
    from sphinx import addnodes

    trees = env.get_doctree("index").findall(addnodes.toctree)
    return [
        (tree["caption"], [page for start in tree["includefiles"] for page in _below(env, start)])
        for tree in trees
    ]


def _below(env: BuildEnvironment, page: str) -> list[str]:
    children = env.toctree_includes.get(page, [])
    return [page, *(below for child in children for below in _below(env, child))]
