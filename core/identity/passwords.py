"""Which new passwords are easy to guess, by zxcvbn's lists of leaked passwords, names and words; nobody is asked."""

from __future__ import annotations

import threading

from zxcvbn import zxcvbn

from core.errors import WeakPasswordError

# 10^8 guesses: zxcvbn's "safely unguessable", for a digest that is slow to compute, as ours is.
SCORE_MIN = 3
# The worst text of so many takes half a second to judge, and what is hard to guess after them stays so.
CHARACTERS_JUDGED = 32
# A shorter name says too little about a password that has it in it.
NAME_LENGTH_MIN = 4
# zxcvbn keeps a call's `user_inputs` in a dictionary of the module.
_judging = threading.Lock()


def require_hard_to_guess(password: str, email: str) -> None:
    """Raise `WeakPasswordError`, whose `why` is `email` or `guessable`, for a normalised address."""
    name = email.partition("@")[0]
    lowered = password.lower()
    if len(name) >= NAME_LENGTH_MIN and name in lowered:
        raise WeakPasswordError("Choose a password that does not contain the name in your e-mail address.", why="email")
    known = [name, email, *name.replace("-", ".").replace("_", ".").split("."), "visionmeter"]
    with _judging:
        judged = zxcvbn(password[:CHARACTERS_JUDGED], user_inputs=[word for word in known if word])
    if judged["score"] < SCORE_MIN:
        raise WeakPasswordError(
            "This password is easy to guess: choose a longer one, such as four words that have nothing to do with one "
            "another.",
            why="guessable",
        )
