"""Templates and rules in a directory of the administrator's; rendered in a process apart. Jinja2 lives here alone."""
