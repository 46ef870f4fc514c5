"""Microsoft Graph as a way out: the only place that knows httpx2."""
