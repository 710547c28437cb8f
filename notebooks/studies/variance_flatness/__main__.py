"""``python -m notebooks.studies.variance_flatness CONFIG.toml --out DIR``: the experiment and its verdict."""

from notebooks.studies.variance_flatness.command import main

if __name__ == "__main__":
    raise SystemExit(main())
