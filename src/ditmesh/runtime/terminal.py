"""What others wrote (prompts, names of columns and files), made fit for a terminal."""

import re

# Control characters, among them those that begin an escape sequence; what turns the direction of writing; half letters.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNSHOWN_BUT_LINES = re.compile(rf"(?!\n){UNSHOWN.pattern}")


def shown(text: object, lines: bool = False) -> str:
    r"""The text with escapes such as ``\x1b`` in place of what would steer a terminal.

    Args:
        text: what is to be printed.
        lines: leave the ends of lines as they are.
    """
    return (UNSHOWN_BUT_LINES if lines else UNSHOWN).sub(lambda found: ascii(found[0])[1:-1], str(text))
