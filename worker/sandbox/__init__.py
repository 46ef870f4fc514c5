"""Throw-away surroundings for the demo and the tests: nothing here serves production."""
