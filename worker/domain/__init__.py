"""Decisions: no clock, no dice, no I/O. Everything in here can be tested with plain values."""
