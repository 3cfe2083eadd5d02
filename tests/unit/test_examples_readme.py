"""What examples/README.md names exists: files, links, command lines, keys and their values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from scpl_ray.cli.main import COMMANDS, cli
from scpl_ray.config import Config, load_config
from scpl_ray.data.sources import SOURCES
from scpl_ray.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = (EXAMPLES / "README.md").read_text()
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
LINKS = re.findall(r"\]\(([^)#]+)\)", TEXT)
CALLS = re.findall(r"^scpl-ray (.+)$", TEXT, flags=re.MULTILINE)
QUOTED = sorted(set(re.findall(r"`([^`]+)`", PROSE)))
SECTIONS = [*Config.model_fields]
KEYS = [q for q in QUOTED if re.match(rf"({'|'.join(SECTIONS)})(\.|: |=)", q)]
FILES = [q for q in QUOTED if re.match(r"(paper/)?(vision|text)/\w+\*", q)]


def test_much_is_named() -> None:
    assert len(LINKS) > 15 and len(CALLS) >= 5 and len(KEYS) > 40 and len(FILES) > 20


@pytest.mark.parametrize("link", LINKS)
def test_a_link_resolves(link: str) -> None:
    assert link.startswith("http") or (EXAMPLES / link).exists()


def test_every_example_is_linked() -> None:
    shown = {p.name for p in EXAMPLES.iterdir()} - {"images", "README.md", "__pycache__"}
    assert shown <= {link.split("/")[0] for link in LINKS}


@pytest.mark.parametrize("pattern", FILES)
def test_a_pattern_of_files_finds_some(pattern: str) -> None:
    assert list((EXAMPLES / "paper").glob(pattern.removeprefix("paper/")))


@pytest.mark.parametrize("call", CALLS)
def test_a_command_line_is_one_of_the_product(call: str) -> None:
    name, *arguments = shlex.split(call, comments=True)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    # Parses, runs nothing; an unknown option or a missing argument raises.
    given = command.make_context(name, arguments).params
    if "config" in given:
        load_config(EXAMPLES.parent / given["config"], given["overrides"])


@pytest.mark.parametrize("quoted", KEYS)
def test_a_key_exists_and_takes_its_value(quoted: str) -> None:
    for one in quoted.split() if "=" in quoted else [quoted]:
        key, _, value = one.replace(": ", "=", 1).partition("=")
        if not value:
            # Without a value: whatever it is, the key is a known one.
            value = yaml.safe_dump(value_of(load_config(None), key), default_flow_style=True)
            value = value.removesuffix("\n").removesuffix("\n...")
        settings = load_config(None, [f"{key}={value}", "model.width=300", "model.heads=6"])
        if key == "data.source":
            assert settings.data.source in SOURCES


def value_of(settings: Config, key: str) -> object:
    found: object = settings.model_dump()
    for part in key.split("."):
        assert isinstance(found, dict)
        found = found[part]
    return found


def test_a_wrong_key_or_value_is_noticed() -> None:
    for wrong in ("model.kinds: vgg8", "local.exit_head.kind: mlpp", "data.source: cifar11"):
        with pytest.raises((UserError, AssertionError)):
            test_a_key_exists_and_takes_its_value(wrong)
    with pytest.raises(KeyError):
        test_a_key_exists_and_takes_its_value("local.temperatur")


def test_the_commands_in_tables_exist() -> None:
    named = {q.split()[0] for q in QUOTED if q.split()[0] in COMMANDS}
    assert {"train", "eval", "compare", "bench", "grow", "shrink"} <= named
    for quoted in QUOTED:
        name, *arguments = quoted.split()
        if name in COMMANDS and arguments and arguments[0] in ("RUN", "CONFIG"):
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            command.make_context(name, arguments)
