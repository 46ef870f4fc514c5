"""Write the schemas."""

from contracts.schemas import DIRECTORY, generated

for name, content in generated():
    (DIRECTORY / name).write_text(content, encoding="utf-8")
