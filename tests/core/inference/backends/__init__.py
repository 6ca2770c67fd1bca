"""Tests of core.inference.backends."""
