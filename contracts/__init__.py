"""Postlane's message contract: what producers publish and what they get back."""

__version__ = "0.1.0"
