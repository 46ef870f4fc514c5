"""Attachments given by reference: files in one directory that producers and workers share."""
