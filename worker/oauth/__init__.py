"""Access tokens (OAuth 2.0 client credentials). The only folder that knows MSAL."""
