"""What a terminal gets to see of what others wrote."""

import pytest

from ditmesh.runtime.terminal import shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a cat, 猫\u3000👩\u200d🚀", "a cat, 猫\u3000👩\u200d🚀"),
        ("\x1b[2J\x07\r\x9b", r"\x1b[2J\x07\r\x9b"),
        ("gnp.\u202e", r"gnp.\u202e"),
        ("\udcff", r"\udcff"),
        ("two\nlines", r"two\nlines"),
    ],
    ids=["text", "escapes", "directions", "no letter", "lines"],
)
def test_what_would_steer_a_terminal_is_shown(text, seen):
    assert shown(text) == seen
    assert shown(text, lines=True) == seen.replace(r"\n", "\n")
