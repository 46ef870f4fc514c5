"""What must be remembered: who has claimed what, and which mailboxes rest."""
