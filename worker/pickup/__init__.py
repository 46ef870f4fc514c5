"""Hand-over to a directory that another mail server empties (IIS SMTP service, Exchange)."""
