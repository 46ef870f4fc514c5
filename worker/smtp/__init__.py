"""Submission over SMTP (RFC 6409). The only folder that knows aiosmtplib.

The library connects, negotiates TLS and reads the server's capabilities. From there on the dialogue is ours, because
only then do we know at every moment how far it has come: whether a mail may have been accepted must not be a guess.
"""
