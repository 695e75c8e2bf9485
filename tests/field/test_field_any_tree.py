"""Random sources of odd files: nothing but a UserError, nothing lost, everything counted."""

import csv
import io
import json
import os
import pathlib
import tempfile
import unicodedata

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_files import features_of, picture, rejected_of, tar

from jest_tf.data.prepare import Settings, prepare
from jest_tf.errors import UserError

GOOD = {
    ".jpg": picture(1),
    ".JPG": picture(2),
    ".png": picture(3, "PNG"),
    ".webp": picture(4, "WEBP"),
}
ODD = st.sampled_from(
    [b"", b"<html>404</html>", picture(1)[:150], b"\x00\xff" * 30, b"[" * 5000, b"\xef\xbb\xbf \n"]
)
TEXTS = st.one_of(
    st.sampled_from(["a dog", " ", "", 'say "hi"', '"open', "two\nlines", "a\u2028b", "ü,;\t|"]),
    st.just("caf\udce9"),
    st.text(max_size=8),
)
NOT_TEXT = st.sampled_from([7, 1.5, True, {"en": "a dog"}, [1], [[["x"]]], {"raw": 3}])
CAPTIONS = st.one_of(TEXTS, st.none(), NOT_TEXT, st.lists(TEXTS, max_size=3))
FOLDERS = st.sampled_from(["", "a", "a/b", ".hidden", "ü n\udcff"])
NAMES = st.sampled_from(["0.jpg", "1.png", "no.jpg", "../out.jpg", ""])
ENDINGS = st.sampled_from(["jpg", "txt", "json", "cls", "md"])
STEMS = st.sampled_from(["0", "1", "2", "x.y", "ü", " ", ".h", "n\udcff"])
some = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8", "ignore")


def is_seen(text: str) -> bool:
    """Whether there is more in it than blanks, control and zero-width characters."""
    return any(unicodedata.category(c) not in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text)


def is_text(value: object) -> bool:
    """Whether `prepare` must find a caption in a value of a JSON."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, str | None) for v in values) and any(v and is_seen(v) for v in values)


def prepared(kind: str, path, out) -> tuple[object, list[dict]]:
    """(summary, records) of a run that accepts any share of rejected records.

    A second run must change nothing.
    """
    said: list[str] = []
    command = Settings(kind, (str(path),), str(out), max_rejected=1.0, workers=2)
    summary = prepare(command, said.append)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    again = prepare(command, said.append)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()} == before
    assert (again.records, again.rejected) == (summary.records, summary.rejected)
    assert again.passed_over == summary.passed_over
    return summary, features_of(out)


def total(summary) -> int:
    return summary.records + summary.rejected + summary.passed_over.total()


@st.composite
def trees(draw):
    """({path: content}, links, rows of a captions.csv or None)"""
    files, texts = {}, {}
    for _ in range(draw(st.integers(0, 6))):
        stem = os.path.join(draw(FOLDERS), draw(STEMS))
        ending = draw(st.sampled_from(sorted(GOOD)))
        files[stem + ending] = draw(st.one_of(st.just(GOOD[ending]), ODD))
        beside = draw(st.sampled_from(["", ".txt", ".json", ".cls", ".md"]))
        if beside == ".json":
            texts[stem + beside] = json.dumps({"caption": draw(CAPTIONS)}).encode()
        elif beside:
            texts[stem + beside] = draw(st.one_of(TEXTS.map(encoded_or_lost), ODD))
    links = draw(st.lists(st.sampled_from(["gone", "outside", "loop", "pipe"]), unique=True))
    names = st.one_of(
        st.sampled_from([*files, "missing.jpg", "../out.jpg", "", "/etc/passwd"]), STEMS
    )
    rows = draw(st.none() | st.lists(st.tuples(names, TEXTS), max_size=6))
    return files | texts, links, rows


def encoded_or_lost(text: str) -> bytes:
    try:
        return encoded(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def write_tree(folder: pathlib.Path, files: dict, links: list, rows) -> None:
    folder.mkdir()
    (folder.parent / "out.jpg").write_bytes(GOOD[".jpg"])
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for link in links:
        if link == "pipe":
            os.mkfifo(folder / "pipe.jpg")
        else:
            target = {"gone": "nowhere", "outside": "../out.jpg", "loop": "."}[link]
            (folder / f"{link}.jpg").symlink_to(target)
    if rows is not None:
        table = io.StringIO(newline="")
        csv.writer(table).writerows([("file_name", "text"), *rows])
        (folder / "captions.csv").write_bytes(encoded_or_lost(table.getvalue()))


def readable(files: dict, rows) -> set[str]:
    """Pictures that must become records, by a reading of the documentation."""
    sound = {
        name
        for name, content in files.items()
        if content in GOOD.values() and not any(p.startswith(".") for p in name.split("/"))
    }
    named = {name for name, text in rows or [] if is_seen(utf8(text))}
    found = {name for name in sound if name in named}
    for name in sound - {name for name, _ in rows or []}:
        stem = os.path.splitext(name)[0]
        text = files.get(stem + ".txt", b"").removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore")
        try:
            fields = json.loads(files.get(stem + ".json", b"{}"))
        except (ValueError, RecursionError):
            fields = {}
        if is_seen(text) or (stem + ".txt" not in files and is_text(fields.get("caption"))):
            found.add(name)
    return found


@some
@given(trees())
def test_a_folder(tree):
    files, links, rows = tree
    with tempfile.TemporaryDirectory() as at:
        folder, out = pathlib.Path(at) / "in", pathlib.Path(at) / "prepared"
        write_tree(folder, files, links, rows)
        wanted = readable(files, rows)
        try:
            summary, records = prepared("folder", folder, out)
        except UserError:
            assert not wanted
            return
        keys = {key for record in records for key in record["key"]}
        assert wanted <= keys
        entries = [os.path.join(a, f) for a, _, names in os.walk(folder) for f in names]
        n_files = len(entries) + ("loop" in links)  # os.walk calls a link to a folder a folder
        there = {os.path.relpath(path, folder) for path in entries}
        without_file = [key for key in rejected_of(out) if key not in there]
        assert total(summary) == n_files + len(without_file)
        (folder / "new.jpg").write_bytes(GOOD[".jpg"])
        try:
            prepared("folder", folder, out)
            raise AssertionError("a changed source was not told")
        except UserError as error:
            assert "new.jpg" in str(error)


@some
@given(
    st.lists(
        st.tuples(STEMS, ENDINGS, CAPTIONS),
        max_size=12,
    ),
    st.booleans(),
)
def test_a_tar(members, compressed):
    content = {}
    for stem, ending, value in members:
        data = {
            "jpg": GOOD[".jpg"] if value is not None else b"<html>",
            "json": json.dumps({"caption": value}).encode(),
        }
        content[stem, ending] = data.get(ending, encoded_or_lost(str(value)))
    with tempfile.TemporaryDirectory() as at:
        path, out = pathlib.Path(at) / "in.tar", pathlib.Path(at) / "prepared"
        pairs = [(f"{stem}.{ending}", data) for (stem, ending), data in content.items()]
        tar(path, sorted(pairs) if compressed else pairs, "w:gz" if compressed else "w")
        groups: dict[str, dict] = {}
        for name, data in pairs:
            stem, _, ending = name.partition(".")
            groups.setdefault(stem, {})[ending] = data
        hidden = len(groups.pop("", {}))
        wanted = set()
        for stem, parts in groups.items():
            inner = "" if "." not in next(iter(parts)) else "y."
            caption = json.loads(parts.get(inner + "json", b"{}")).get("caption")
            text = parts[inner + "txt"].decode("utf-8", "ignore") if inner + "txt" in parts else ""
            has_text = is_seen(text) if inner + "txt" in parts else is_text(caption)
            if parts.get(inner + "jpg") == GOOD[".jpg"] and has_text:
                wanted.add(stem + ("." + inner[:-1] if inner else ""))
        try:
            summary, records = prepared("webdataset", path, out)
        except UserError:
            assert not wanted
            return
        assert {f"in.tar:{key}" for key in wanted} <= {k for r in records for k in r["key"]}
        assert total(summary) == len(groups) + hidden


@some
@given(
    st.lists(
        st.tuples(st.sampled_from(["0.jpg", "1.png", "no.jpg", "../out.jpg", ""]), CAPTIONS),
        max_size=8,
    ),
    st.booleans(),
)
def test_a_table(rows, as_json):
    with tempfile.TemporaryDirectory() as at:
        folder, out = pathlib.Path(at) / "in", pathlib.Path(at) / "prepared"
        write_tree(folder, {"0.jpg": GOOD[".jpg"], "1.png": GOOD[".png"]}, [], None)
        if as_json:
            lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
            (folder / "t.jsonl").write_text("\n".join(lines))
            path, wanted = folder / "t.jsonl", [n for n, t in rows if is_text(t)]
            n_rows = len(rows)
        else:
            rows = [(name, text if isinstance(text, str) else str(text)) for name, text in rows]
            table = io.StringIO(newline="")
            csv.writer(table).writerows([("filepath", "title"), *rows])
            (folder / "t.csv").write_bytes(encoded_or_lost(table.getvalue()))
            path, wanted = folder / "t.csv", [n for n, t in rows if is_seen(utf8(t))]
            n_rows = sum(bool(name or text.strip()) for name, text in rows)
        wanted = sorted(n for n in wanted if n in ("0.jpg", "1.png"))
        try:
            summary, records = prepared("csv", path, out)
        except UserError:
            assert not wanted
            return
        assert sorted(record["key"][0] for record in records) == wanted
        assert total(summary) == n_rows
