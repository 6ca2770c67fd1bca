"""Mails: the server that takes them, their words, and the outbox they wait in."""
