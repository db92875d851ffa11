"""Pictures of matplotlib as part of a page.

They have ids and styles of their own, and nothing that nobody sees.
"""

from __future__ import annotations

import re
from collections import Counter
from html import escape


def inline(svg: str, name: str, words: str) -> str:
    """An ``svg`` element to put into a page, from the SVG file that matplotlib wrote.

    It takes the font of the page. ``name`` keeps its ids and classes apart from those of others;
    ``words`` stand for it.
    """
    svg = re.sub(
        r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL
    )
    svg = _own_ids(_smaller(svg.replace("'DejaVu Sans'", "inherit")), name)
    svg = _classes(svg, f"[aria-labelledby={name}-title]")
    head = (
        rf'<svg role="img" aria-labelledby="{name}-title" viewBox=\1 '
        r'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    svg = re.sub(r"<svg[^>]*viewBox=(\"[^\"]*\")[^>]*>", head, svg, count=1)
    return svg.replace(">", f'><title id="{name}-title">{escape(words)}</title>', 1).rstrip()


def _smaller(svg: str) -> str:
    """A tenth of a point is a fine enough place, and space between elements says nothing."""
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r' style="[^"]*"', lambda m: re.sub(r"([:;]) ", r"\1", m[0]), svg)
    svg = re.sub(
        r' d="[^"]*"', lambda m: re.sub(r"\s*([MLQCzZ])\s*", r"\1", m[0]).replace("\n", " "), svg
    )
    return re.sub(r">\s+<", "><", svg)


def _own_ids(svg: str, name: str) -> str:
    """Ids that something refers to begin with ``name`` and are numbered; the others go."""
    referred = r'(url\(#|href="#)([^)"]+)'
    new = {
        old: f"{name}-{number}"
        for number, (_, old) in enumerate(dict.fromkeys(re.findall(referred, svg)))
    }
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{new[m[1]]}"' if m[1] in new else "", svg)
    return re.sub(referred, lambda m: m[1] + new[m[2]], svg)


def _classes(svg: str, scope: str) -> str:
    """Turn styles that occur more than once into classes.

    These mean something within ``scope`` alone.
    """
    found = Counter(re.findall(r' style="([^"]*)"', svg))
    named = {
        style: f"s{number}"
        for number, style in enumerate(style for style, times in found.items() if times > 1)
    }
    svg = re.sub(
        r' style="([^"]*)"', lambda m: f' class="{named[m[1]]}"' if m[1] in named else m[0], svg
    )
    rules = "".join(f"{scope} .{name}{{{style}}}" for style, name in named.items())
    return svg.replace("</style>", f"{rules}</style>", 1)
