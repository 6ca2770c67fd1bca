"""Runs that live in the database, so that they survive a page change, a closed tab and a crash."""
