"""A double of Office 365 for demos and tests: SMTP submission, Entra's token endpoint, and an ordinary mail server.

Real sockets, real TLS under a throw-away certificate authority, real refusals; only the reach is small: whatever is
accepted lies in a directory and goes nowhere. Nothing of the worker imports this.
"""
