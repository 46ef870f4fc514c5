"""Plain text from html, for those who read no html: what it says, in its order, with its links. Pure."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SILENT = frozenset({"head", "script", "style", "title", "template", "noscript", "object"})
_BLOCKS = re.compile(
    "address|article|aside|blockquote|center|d[dlt]|div|fieldset|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav|"
    "ol|p|pre|section|table|tr|ul"
)
_APART = re.compile("blockquote|h[1-6r]|ol|p|pre|table|ul")
_VOID = frozenset({"base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_LINKED = ("http://", "https://", "mailto:")


def plain_text(html: str) -> str:
    """What the html says: blocks as paragraphs, list items with a dash, links with their address behind them."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = [""]
        self._silent: list[str] = []
        self._pre = 0
        self._links: list[tuple[str, int, int]] = []

    def text(self) -> str:
        lines = [line.rstrip() for line in self._lines]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._silent or tag in _SILENT:
            if tag not in _VOID:
                self._silent.append(tag)
            return
        self._break(tag)
        attributes = dict(attrs)
        match tag:
            case "br":
                self._lines.append("")
            case "hr":
                self._lines += ["-" * 20, "", ""]
            case "li":
                self._lines[-1] = "- "
            case "td" | "th" if self._lines[-1]:
                self._add("  ")
            case "pre":
                self._pre += 1
            case "img":
                self._add(attributes.get("alt") or "")
            case "a":
                self._links.append((attributes.get("href") or "", len(self._lines) - 1, len(self._lines[-1])))
            case _:
                pass

    def handle_endtag(self, tag: str) -> None:
        if self._silent:
            if tag in self._silent:
                while self._silent.pop() != tag:
                    pass
            return
        if tag == "a" and self._links:
            self._close_link(*self._links.pop())
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._pre:
            first, *others = data.split("\n")
            self._lines[-1] += first
            self._lines += others
            return
        text = _BLANKS.sub(" ", data)
        if self._lines[-1] == "" or self._lines[-1].endswith(" "):
            text = text.lstrip(" ")
        self._lines[-1] += text

    def _add(self, text: str) -> None:
        self._lines[-1] += text

    def _break(self, tag: str) -> None:
        """A block begins on a new line, a paragraph after an empty one."""
        if not _BLOCKS.fullmatch(tag) or self._lines[-1] == "- ":
            return
        if self._lines[-1].strip():
            self._lines.append("")
        if _APART.fullmatch(tag) and len(self._lines) > 1 and self._lines[-2].strip():
            self._lines.append("")

    def _close_link(self, href: str, line: int, column: int) -> None:
        said = "\n".join([self._lines[line][column:], *self._lines[line + 1 :]]).strip()
        if href.startswith(_LINKED) and said not in (href, href.removeprefix("mailto:")):
            self._add(f" ({href.removeprefix('mailto:')})" if said else href)
