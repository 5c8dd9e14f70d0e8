"""Numbers with their word."""


def count_of(number: int, word: str, plural: str = "") -> str:
    """``1 run``, ``2 runs``; ``plural`` where it is not the word and an s."""
    return f"{number} {word if number == 1 else plural or word + 's'}"
