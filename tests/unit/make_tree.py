"""A tree of files from a list: `/path`, `/path: text`, `/path -> where a link leads`."""

from pathlib import Path


def make_listed_tree(top: Path, text: str) -> str:
    """Make what `text` lists below `top`. Returns the line that says what is expected of it."""
    expected = ""
    for line in text.splitlines():
        if line.startswith("= "):
            expected = line[2:]
        if not line.startswith("/"):
            continue
        name, arrow, link = line.partition(" -> ")
        name, _, content = (name, "", "") if arrow else line.partition(": ")
        path = top / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            if link.startswith("usr/"):
                (top / link).mkdir(parents=True, exist_ok=True)
            path.symlink_to(link)
        else:
            path.write_text(content.replace("\\n", "\n").replace("\\t", "\t"))
    return expected
