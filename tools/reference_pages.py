"""Write the generated parts of the documentation's reference pages: settings, commands, recipes and API.

    python tools/reference_pages.py settings    # print a part

``docs/conf.py`` inserts a part where a page says ``<!-- generated: NAME -->``. Settings come from the dataclasses,
commands from the parsers, recipes from the headers of their files, the API from docstrings.
"""

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from importlib import import_module

import resnext
from resnext.cli import VERBS, Parser
from resnext.commands.bench_arguments import ADD_ARGUMENTS
from resnext.detection.settings import DetectRecipe
from resnext.recipe import list_recipes
from resnext.recipe_header import read_header
from resnext.settings import Recipe
from resnext.settings_fields import FieldSpec, list_fields, list_sections
from resnext.settings_shared import RecipeBase

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
MARKUP = re.compile(r"([\\`*_\[\]<>|#$])")
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
API = {
    "Train, evaluate, predict": (
        "train", "EpochResult", "evaluate", "EvalOptions", "Evaluation", "predict", "Prediction", "embed", "Predictor",
        "open_run", "Run", "crossval", "Crossval",
    ),
    "Recipes and data": ("load_recipe", "Recipe", "open_data", "Preprocessing"),
    "Networks": (
        "create_model", "list_models", "Architecture", "Network", "convert_form", "complexity", "Complexity", "design",
        "tune",
    ),
    "Weights": ("load", "save", "read_t7"),
    "Prune and grow": ("prune", "grow"),
    "Detection": (
        "detect", "DetectPrediction", "DetectPredictor", "load_detector", "save_detector", "build_detector",
        "FasterRcnn", "DetectPreprocessing", "DetectRecipe", "DetectorSettings",
    ),
    "Errors": ("ResnextError", "RequestError", "WorkError"),
}  # fmt: skip


def main() -> None:
    """Print one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    print(PARTS[parser.parse_args().part]())


def insert_generated(page: str) -> str:
    """Replace each ``<!-- generated: NAME -->`` of a page by that part. Raises KeyError for an unknown name."""
    return MARK.sub(lambda mark: PARTS[mark[1]](), page)


def write_settings() -> str:
    """Write the settings of classification recipes, then those of detection that differ from them."""
    shared = {(section, spec) for section, cls in list_sections(Recipe).items() for spec in list_fields(cls).values()}
    parts = ["## Classification", *_write_sections(Recipe, set()), "## Detection"]
    parts.append(
        "A recipe of detection has the settings of classification, except `distill`, `model.name` being the backbone. "
        "These differ or are added:"
    )
    return "\n\n".join([*parts, *_write_sections(DetectRecipe, shared, "detect-")])


def _write_sections(kind: type[RecipeBase], known: set[tuple[str, FieldSpec]], prefix: str = "") -> Iterator[str]:
    for section in fields(kind):
        specs = list_fields(list_sections(kind)[section.name]).values()
        new = [spec for spec in specs if (section.name, spec) not in known]
        if new:
            yield f"({prefix}{section.name}-settings)=\n### {section.name}\n\n{escape(section.metadata['help'])}"
        for spec in new:
            name = f"{section.name}.{spec.name}"
            anchor = f"{prefix}{section.name}-{spec.name}".replace("_", "-")
            yield f"`{name}`{{#{anchor}}}\n: {escape(spec.help)}\\\n  {describe_values(spec)}"


def describe_values(spec: FieldSpec) -> str:
    """Describe what a setting may be, and its default, in Markdown."""
    kind = " or ".join(f"`{choice}`" for choice in spec.choices) or ("path or URL" if spec.is_place else "")
    kind = kind or WORDS[spec.type] + (f", {spec.bounds}" if spec.bounds else "")
    kind = f"list: {kind}" if spec.is_list else kind
    default = spec.default
    if isinstance(default, tuple):
        default = ", ".join(map(str, default)) or "empty"
    elif isinstance(default, bool):
        default = str(default).lower()
    return f"*{kind}*" + ("" if default is None else f" · default `{default}`")


def write_commands() -> str:
    """Write every command with its actions and options, from the parsers."""
    return "\n\n".join(part for verb in VERBS for part in _write_command(verb))


def _write_command(verb: str) -> Iterator[str]:
    command = import_module(f"resnext.commands.{verb}")
    parser = Parser(prog=f"resnext {verb}", description=command.SUMMARY)
    command.add_arguments(parser)
    yield f"## resnext {verb}\n\n{escape(command.SUMMARY)}"
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not actions:
        yield from _write_parser(parser)
        return
    sentences = {choice.dest: choice.help or "" for choice in actions[0]._choices_actions}
    written: dict[str, str] = {}  # options -> the action that has them
    for name, action in actions[0].choices.items():
        if verb == "bench":
            ADD_ARGUMENTS[name](action)
        yield f"### resnext {verb} {name}\n\n{escape(action.description or f'{sentences[name].capitalize()}.')}"
        body = "\n\n".join(_write_parser(action))
        options = body.replace(name, "")
        if options in written:
            yield f"Its options are those of [resnext {verb} {written[options]}](#resnext-{verb}-{written[options]})."
        else:
            written[options] = name
            yield body


def _write_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Write the usage and the options of one parser; settings of recipes are left to the page of settings."""
    sections = [*list_sections(Recipe), *list_sections(DetectRecipe)]
    has_settings = False
    texts = []
    for action in parser._actions:
        setting = next((option for option in action.option_strings if option.startswith("--") and "." in option), None)
        if setting is not None and setting[2:].partition(".")[0] in sections:
            has_settings = True
        elif action.dest != "help":
            texts.append(_write_option(parser, action))
    yield f"```text\n{_format_usage(parser, has_settings)}\n```"
    yield from texts
    if has_settings:
        yield "`--SECTION.FIELD VALUE`\n: any [setting](settings.md) of a recipe, such as `--train.epochs 60`"


def _format_usage(parser: argparse.ArgumentParser, has_settings: bool) -> str:
    """Format one usage line of what must be given; options follow below it."""
    if parser.usage:
        return parser.usage
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            optional = action.nargs in ("?", "*")
            shown = str(action.metavar or action.dest).upper() + (" ..." if action.nargs in ("*", "+") else "")
            words.append(f"[{shown}]" if optional else shown)
        elif action.required:
            words += [action.option_strings[-1], _format_metavar(action)]
    return " ".join([*words, "[OPTIONS]" if has_settings or len(parser._actions) > len(words) else ""]).strip()


def _write_option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest).upper()]
    value = f" {_format_metavar(action)}" if action.option_strings and action.nargs != 0 else ""
    about = escape(parser._get_formatter()._expand_help(action)) if action.help else "(no description)"
    return f"`{', '.join(names)}{value}`\n: {about}"


def _format_metavar(action: argparse.Action) -> str:
    choices = "|".join(map(str, action.choices)) if action.choices is not None else ""
    shown = action.metavar or choices or action.dest.upper()
    return " ".join(shown) if isinstance(shown, tuple) else shown


def write_recipes() -> str:
    """Write every recipe of the package with its source, expected result and cost, by folder."""
    parts = []
    folder = None
    for name, path in list_recipes().items():
        if name.partition("/")[0] != folder:
            folder = name.partition("/")[0]
            parts.append(f"## {folder}")
        header = read_header(path)
        rows = "\n".join(f"  - {key}: {escape(text)}" for key, text in header.fields.items())
        parts.append(f"`{name}`{{#{name.replace('/', '-')}}}\n: {escape(header.title)}.\n\n{rows}")
    return "\n\n".join(parts)


def write_api() -> str:
    """Write directives that take every public name's signature and docstring."""
    parts = []
    for title, names in API.items():
        directives = "\n\n".join(f".. {_choose_directive(name)}:: resnext.{name}" for name in names)
        parts.append(f"## {title}\n\n```{{eval-rst}}\n{directives}\n```")
    return "\n\n".join(parts)


def _choose_directive(name: str) -> str:
    value = getattr(resnext, name)
    if not inspect.isclass(value):
        return "autofunction"
    return "autoexception" if issubclass(value, Exception) else "autoclass"


def escape(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return MARKUP.sub(r"\\\1", text)


def list_anchors(part: str) -> Iterable[str]:
    """List the anchors that a part adds to its page."""
    return re.findall(r"`\{#([\w-]+)\}", PARTS[part]())


PARTS: dict[str, Callable[[], str]] = {
    "settings": write_settings,
    "commands": write_commands,
    "recipes": write_recipes,
    "api": write_api,
}

if __name__ == "__main__":
    main()
