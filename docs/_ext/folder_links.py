"""Links from a page to a folder of the repository.

A folder is no page, so its path is shown instead. Where the repository is browsed, the links work.
"""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)#\s]+)\)")


def show_folders(app, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return

    def shown(link: re.Match) -> str:
        target = (page.parent / link[2]).resolve()
        if not target.is_dir():
            return link[0]
        path = f"`{target.relative_to(REPOSITORY)}/`"
        return path if link[1].strip("`/") == path.strip("`/") else f"{link[1]} ({path})"

    source[0] = LINK.sub(shown, source[0])


def setup(app):
    app.connect("source-read", show_folders)
    return {"parallel_read_safe": True}
