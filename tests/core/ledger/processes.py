"""Processes of the tests' own, made by a fork server that has imported the ledger once.

Never forked from pytest itself, which has threads and connections; the fork server has neither.
"""

from __future__ import annotations

import multiprocessing

# Imported by the fork server, once; a process then starts in some milliseconds.
PRELOADED = ("core.ledger.verify", "tests.core.ledger.racers", "tests.core.ledger.traffic", "pytest")

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(list(PRELOADED))
