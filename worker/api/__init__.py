"""The management API: mailboxes, doubts, notifications and the audit trail over HTTP."""
