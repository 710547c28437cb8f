"""The reader of TOML files: encodings, kinds, and the nearest known word."""

import pytest

from fpsolve.command import reader


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfrate = 1\n")
    assert reader.parse(reader.read_text(tmp_path / "a.toml"), ("rate",)) == {"rate": 1}
    assert reader.parse("\ufeffrate = 1", ("rate",)) == {"rate": 1}
    assert reader.shipped(tmp_path)["a"].endswith("rate = 1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat = 1", "did you mean 'rate'"),
        ("q = 1", "known: rate, box"),
        ("box = 1", r"\[box\] must be a table"),
    ],
)
def test_unknown_keys_and_wrong_tables_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        reader.parse(text, ("rate",), tables=("box",))


def test_values_take_the_kind_of_their_default():
    assert reader.like(1, "rate", 0.5) == 1.0 and isinstance(reader.like(1, "rate", 0.5), float)
    assert reader.like([1, 2], "rates", (0.5,)) == (1.0, 2.0)
    wrong = [
        ("a", 1, "a whole number"), (True, 1, "a whole number"), (1.5, 1, "a whole number"),
        (True, 0.5, "a number"), (1, "a", "text"), (1, True, "true or false"), (3, (1,), "a list"),
        ([], (1,), "a list"), (["a"], (1,), "a whole number"),
    ]  # fmt: skip
    for value, default, message in wrong:
        with pytest.raises(ValueError, match=f"key = .* must be {message}"):
            reader.like(value, "key", default)
