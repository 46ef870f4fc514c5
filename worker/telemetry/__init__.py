"""Listeners: logs, metrics, health. They are told events and change nothing."""
