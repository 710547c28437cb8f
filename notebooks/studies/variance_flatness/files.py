"""Experiment files: TOML read into a frozen Config, every mistake found first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fpsolve.command.reader import like, parse, refuse_unknown, shipped
from notebooks.studies.variance_flatness.experiment import Config

DEFAULTS = asdict(Config())
#: Experiments that ship with the study, by the name after ``--example``.
EXAMPLES = shipped(Path(__file__).with_name("examples"))


def parse_experiments(text: str) -> list[Config]:
    """One experiment of TOML text, or one for each table of its array ``[[variants]]``.

    The keys are the fields of ``experiment.Config``, all optional. A variant has fields of its own in place
    of the file's; it needs a ``name``. A ValueError in one line says what is wrong: invalid TOML, an unknown
    key (with the nearest known one), a value that makes no sense.
    """
    table = parse(text, (*DEFAULTS, "variants"))
    variants = table.pop("variants", None)
    base = _like_defaults(table)
    if variants is None:
        return [Config(**base)]
    if not isinstance(variants, list) or not variants or not all(isinstance(v, dict) for v in variants):
        raise ValueError("variants must be tables: write [[variants]]")
    configs: dict[str, Config] = {}
    for number, variant in enumerate(variants, start=1):
        refuse_unknown(variant, DEFAULTS, f"variant {number}")
        if "name" not in variant:
            raise ValueError(f"variant {number} needs a name")
        config = Config(**(base | _like_defaults(variant)))
        if config.name in configs:
            raise ValueError(f"two variants are named {config.name!r}")
        configs[config.name] = config
    return list(configs.values())


def _like_defaults(table: Mapping[str, object]) -> dict:
    """Values of the kind of the defaults."""
    return {key: like(value, key, DEFAULTS[key]) for key, value in table.items()}
