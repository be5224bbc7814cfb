"""YAML with lines: what is read, what is refused, and where it says that it is."""

from __future__ import annotations

import pytest

from chaos.lines import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Plain, read, resolve


def root(text: str) -> Node:
    node, wrong = read(text.encode(), "f.yaml")
    assert node is not None
    assert not wrong, wrong
    return node


def said(content: bytes) -> list[str]:
    return [str(problem) for problem in read(content, "f.yaml")[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("12", 12), ("-3", -3), ("0o17", 15),
        ("0x1F", 31), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("010", 10), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("1.0.0", "1.0.0"), (".nan", ".nan"), (".inf", ".inf"), ("1e999", "1e999"), ("1_000", "1_000"), ("y", "y"),
        ("50%", "50%"), ("1s..5s", "1s..5s"),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: Plain) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quoted_is_text() -> None:
    assert root("a: \"1.0\"\nb: 'true'\nc: |\n  yes\n").plain() == {"a": "1.0", "b": "true", "c": "yes\n"}


def test_every_key_and_value_has_its_place() -> None:
    node = root("# a comment\na:\n  b: 1\n  c: [x, {d: y}]\n\ne: |\n  text\n")
    assert node.at(("a",)) == (2, 1)
    assert node.at(("a", "b")) == (3, 3)
    assert node.at(("a", "c", 1)) == (4, 10)
    assert node.at(("a", "c", 1, "d")) == (4, 11)
    assert node.at(("e",)) == (6, 1)
    assert node.at(("a", "c", 7, "d")) == (4, 3), "as far as it leads"
    assert node.at(("nothing",)) == (2, 1)


def test_a_key_that_stands_twice_is_named_with_both_lines() -> None:
    assert said(b"a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n") == [
        "f.yaml:5: 'c' is there twice, first in line 3. Remove one of them."
    ]


def test_several_things_are_said_at_once() -> None:
    assert [line.split(":")[1] for line in said(b"a: 1\na: 2\non: 3\nb: yes\n1: x\n")] == ["2", "3", "4", "5"]


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off"])
def test_words_that_are_booleans_to_some_are_refused(word: str) -> None:
    as_key, as_value = said(f"{word}: 1\n".encode()), said(f"a: {word}\n".encode())
    assert as_key == [
        f'f.yaml:1: the key {word} means true or false to some readers of YAML. Write "{word}" if it is meant.'
    ]
    meant = "true" if word.lower() in ("yes", "on") else "false"
    assert as_value[0].endswith(f'Write {meant}, or "{word}" in quotes.')
    assert said(f'"{word}": "{word}"\n'.encode()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1, 2\n", "f.yaml:2: is no YAML"),
        (b"a: 1\nb:\n\t- c\n", "f.yaml:3: is no YAML: found character"),
        (b"a: b: c\n", "f.yaml:1: is no YAML: mapping values are not allowed here"),
        (b"a: 1\nb: \xff\n", "f.yaml:2: is not UTF-8. Save it as UTF-8."),
        ("a: 1\n".encode("utf-16"), "f.yaml:1: is not UTF-8"),
        (b"a: 1\nb: \x07\n", "f.yaml:2: holds a character that YAML does not take: U+0007"),
        (b"a: !!python/object/apply:os.system ['true']\n", "f.yaml:1: a scenario has no tags"),
        (b"a: 1\n---\nb: 1\n", "f.yaml:3: there are several documents in it"),
        (b"a: *b\n", "f.yaml:1: there is no anchor &b before it"),
        (b"a: &a [*a]\n", "f.yaml:1: there is no anchor &a before it"),
        (b"? [a]\n: 1\n", "f.yaml:1: a key has to be a word"),
        (b"~: 1\n", "f.yaml:1: a key has to be a word, and this is ~"),
        (b"a: 'x\n", "f.yaml:2: is no YAML"),
    ],
)
def test_what_is_no_scenario_s_yaml_is_refused_with_its_line(content: bytes, told: str) -> None:
    found = said(content)
    assert len(found) == 1
    assert found[0].startswith(told), found


def test_a_byte_order_mark_is_no_part_of_it() -> None:
    assert root("\ufeffa: 1\n").plain() == {"a": 1}


def test_nothing_is_nothing() -> None:
    assert read(b"", "f.yaml") == (None, [])
    assert read(b"# only a comment\n", "f.yaml") == (None, [])


def test_an_alias_is_filled_in_and_has_a_place_of_its_own() -> None:
    node = root("a: &x {b: 1}\nc: *x\n")
    assert node.plain() == {"a": {"b": 1}, "c": {"b": 1}}
    assert node.at(("c", "b")) == (1, 8)
    assert node.at(("c",)) == (2, 1)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2_000))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, f"holds more than {MAX_NODES} values"),
        (CHAIN, f"is nested deeper than {MAX_DEPTH}"),
        ("[" * 100_000, f"is nested deeper than {MAX_DEPTH}"),
        ("- " * 100_000 + "x", f"is nested deeper than {MAX_DEPTH}"),
        ("{a: " * 100_000, f"is nested deeper than {MAX_DEPTH}"),
        ("a: [" + "1, " * (MAX_NODES + 1) + "1]", f"holds more than {MAX_NODES} values"),
        ("a: " + "x" * MAX_BYTES, "is larger than 1 MiB"),
    ],
    ids=["bomb", "chain", "brackets", "dashes", "braces", "many", "large"],
)
def test_what_grows_is_refused(text: str, told: str) -> None:
    found = said(text.encode())
    assert len(found) == 1
    assert told in found[0]


def test_as_deep_as_it_may_be() -> None:
    # The list itself is one level, and what stands in it another.
    deepest = "[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1)
    assert said(deepest.encode()) == []
    assert said(f"[{deepest}]".encode())
