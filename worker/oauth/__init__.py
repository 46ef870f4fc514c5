"""Access tokens (OAuth 2.0): Microsoft's through MSAL, known to this folder only; other issuers' by the standards."""
