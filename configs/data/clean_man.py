#!/usr/bin/env python3
"""Plain text from manual pages: one paragraph of prose a line, one file a page.

    clean_man.py ROOT OUT

ROOT is a folder into which Debian packages were unpacked; ROOT/usr/share/man/manN holds the English pages and
ROOT/usr/share/man/<language>/manN their translations. Written are OUT/en/<page>.txt, OUT/de/<page>.txt, ...

Kept is prose. Dropped are: markup, synopses, tables, examples, option names, lists of references; paragraphs found in three
pages or more (licences, credits, notes to translators) and the second copy of a paragraph found in two; paragraphs of a
translation that are still English. Only the standard library is needed.
"""
import gzip
import os
import re
import sys
import unicodedata
from collections import Counter

LANGUAGES = ("de", "fr", "it", "nl")
MANY_PAGES = 3      # a paragraph of that many pages is boilerplate
LEAST_LETTERS = 24  # shorter paragraphs are labels
LEAST_PAGE = 200    # characters; less is no prose

# Words that nearly every sentence has: enough to tell these five languages apart.
COMMON_WORDS = {
    "en": "the of to is and are be that this with for not if it by which as or from an was can will on when has have you"
          " should must all any see use used only also its at but than then specified following one returns set",
    "de": "der die das und ist nicht zu ein eine einer eines wird werden mit für von auf den dem des im wenn sie oder als"
          " auch kann dies diese sind bei nur durch aus wie siehe es dieser keine einen zum zur falls",
    "fr": "le la les de des du et est un une pas en que qui pour dans par sur ne ce cette sont si avec ou au aux il être"
          " plus peut sans utilisé fichier voir tous cet comme elle",
    "it": "il la di che è e un una per non in del della dei delle sono con si da al alla lo gli le se come questo questa"
          " può essere dal nel nella viene anche o ed file vedere più",
    "nl": "de het een en van is niet te dat voor met op zijn wordt worden die in door als of aan bij ook kan deze dit om"
          " uit er naar geen alle indien wanneer zie alleen moet over",
}
COMMON_WORDS = {language: frozenset(words.split()) for language, words in COMMON_WORDS.items()}

# Sections without prose of their own, by the beginning of their heading in any of the languages.
DROPPED_SECTIONS = re.compile(
    r"(SYNOPSIS|ÜBERSICHT|SYNTAX|SINTASSI|SAMENVATTING|SEE ALSO|SIEHE AUCH|VOIR AUSSI|VEDERE ANCHE|VEDI ANCHE|ZIE OOK|"
    r"COLOPHON|KOLOPHON|COLOFON|TRANSLAT|ÜBERSETZ|TRADUCTION|TRADUZIONE|VERTALING|COPYRIGHT|COPYING|LICEN[SC]|LIZENZ|"
    r"AUTHOR|AUTOR|AUTEUR|AUTORE|AUTORI|SCHRIJVER|REPORTING BUGS|FEHLER BERICHTEN|SIGNALER|SEGNALA|RAPPORTEREN|BUGS MELDEN|"
    r"ATTRIBUTE|ATTRIBUTS|ATTRIBUTI|EIGENSCHAPPEN|EXAMPLE PROGRAM|PROGRAM SOURCE|LIBRARY|BIBLIOTHEK|BIBLIOTHÈQUE|LIBRERIA)",
    re.IGNORECASE)

# Blocks that are no prose, with what ends them.
BLOCKS = {"TS": "TE", "EX": "EE", "nf": "fi", "EQ": "EN", "Vb": "Ve", "Bd": "Ed", "SY": "YS", "PS": "PE"}
PARAGRAPH = frozenset("PP P LP Pp HP sp RS RE Bl El It INDENT UNINDENT Sp bp".split())
FONTS_SPACED = frozenset("B I SM SB R CW q".split())
FONTS_JOINED = frozenset("BR RB IR RI BI IB".split())
MDOC_TEXT = frozenset("Nm Fl Ar Xr Pa Dq Cm Op Sq Ql Em Dv Ev Va Fa Fn Ic Sy Li Tn Aq Pq Qq Sx Vt Bx Ux At Ft Nx Fx Ox Nd".split())

NAMED = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "hy": "-", "bu": "", "co": "©", "rs": "\\",
    "ti": "~", "ha": "^", "ga": "`", "aa": "'", "at": "@", "sh": "#", "Do": "$", "Fo": "«", "Fc": "»", "fo": "‹", "fc": "›", "mu": "×",
    "di": "÷", "+-": "±", "->": "→", "<-": "←", "ra": "→", "la": "⟨", "<=": "≤", ">=": "≥", "!=": "≠", "==": "≡", "de": "°", "mc": "µ",
    "sc": "§", "dg": "†", "sl": "/", "or": "|", "bv": "|", "ba": "|", "mi": "-", "eq": "=", "pl": "+", "if": "∞", "is": "∫", "pd": "∂",
    "*p": "π", "*W": "Ω", "*b": "β", "*i": "ι", "*a": "α", "*m": "µ", "S1": "¹", "S2": "²", "S3": "³", "12": "½", "14": "¼", "34": "¾",
    "fm": "′", "sd": "″", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "/O": "Ø", "/o": "ø", "r!": "¡", "r?": "¿", "Po": "£",
    "Eu": "€", "ct": "¢", "Ye": "¥", "rg": "®", "tm": "™", "md": "·", "pc": "·", "lB": "[", "rB": "]", "lC": "{", "rC": "}",
}
ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327", "o": "\u030a", "v": "\u030c"}


def named_character(name):
    """The text of \\[name] or \\(na; nothing where it is unknown."""
    if name in NAMED:
        return NAMED[name]
    if re.fullmatch(r"u[0-9A-F]{4,6}", name):
        return chr(int(name[1:], 16))
    if re.fullmatch(r"char\d{2,3}", name):
        return chr(int(name[4:]))
    if len(name) == 2 and name[0] in ACCENTS and name[1].isalpha():
        return unicodedata.normalize("NFC", name[1] + ACCENTS[name[0]])
    return ""


ESCAPE = re.compile(r"""
    \\(?: (?P<comment>["\#].*)
        | \[(?P<long>[^\]]*)\] | \((?P<two>..)
        | [fFmMgkYVn]\[[^\]]*\] | [fFmMgkYVn]\(.. | [fFmMgkYVn].
        | \*\[(?P<string>[^\]]*)\] | \*\((?P<string2>..) | \*(?P<string1>.)
        | s[+-]?\(?\[?'?\d*\]?'? | [hvwlLDbxXNoABCZR]'[^']*' | z
        | (?P<space>[\ ~0t]) | (?P<plain>[-.'`_/,|^&%:{}cudrpae\\!)]) | (?P<other>.) )?""", re.VERBOSE)
STRINGS = {"Aq": "'", "lq": "“", "rq": "”", "R": "®", "Tm": "™", "L\"": "“", "R\"": "”", "C`": '"', "C'": '"', "--": "–", "PI": "π"}
PLAIN = {"-": "-", ".": ".", "'": "'", "`": "`", "_": "_", "e": "\\", "\\": "\\"}


def expand(match):
    if match["long"] is not None or match["two"] is not None:
        return named_character(match["long"] if match["long"] is not None else match["two"])
    for group in ("string", "string2", "string1"):
        if match[group] is not None:
            return STRINGS.get(match[group], "")
    if match["space"] is not None:
        return " "
    if match["plain"] is not None:
        return PLAIN.get(match["plain"], "")
    return match["other"] or ""


def unescape(text):
    return ESCAPE.sub(expand, text)


def arguments(text):
    """Splits a macro's arguments; quotes group, a doubled quote is one."""
    text = re.sub(r'\\["#].*', "", text)
    found = re.findall(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s"])(?:\\.|[^\s])*)', text)
    return [quoted.replace('""', '"') if not bare else bare for quoted, bare in found]


def mdoc_text(name, args, page):
    """Words of an mdoc macro; macros among its arguments only change fonts."""
    words, flag = [], name == "Fl"
    if name == "Nm" and not args:
        args = [page]
    for word in args:
        if word in MDOC_TEXT or word in ("Ns", "No", "Ap", "Oc", "Oo"):
            flag = word == "Fl"
        else:
            words.append(("-" if flag else "") + word)
            flag = False
    if name == "Xr" and len(words) > 1:
        words[:2] = [f"{words[0]}({words[1]})"]
    return re.sub(r" ([.,;:)]+)( |$)", r"\1\2", " ".join(words))


class Page:
    """Walks a page's lines and collects paragraphs."""

    def __init__(self, name):
        self.name = name
        self.paragraphs = []
        self.words = []
        self.until = None       # the macro that ends the block being skipped
        self.tag = 0            # lines to skip: a list's label
        self.dropping = False   # inside a section that is dropped

    def flush(self):
        text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", " ".join(self.words)))
        text = "".join(c for c in text if c.isprintable()).strip()
        if text and not self.dropping:
            self.paragraphs.append(text)
        self.words = []

    def add(self, text):
        if self.tag:
            self.tag -= 1
        elif text.strip():
            self.words.append(text)

    def line(self, line):
        if self.until:
            if re.match(r"[.']\s*" + re.escape(self.until) + r"(\s|$)", line) or (self.until == ".." and line.startswith("..")):
                self.until = None
            return
        macro = re.match(r"[.']\s*([A-Za-z][A-Za-z0-9]*|\\[\"#]|\\\})?(.*)", line)
        if not macro:
            self.text(line)
        elif macro[1] and macro[1][0] != "\\":
            self.macro(macro[1], macro[2])

    def text(self, line):
        if not line.strip():
            self.flush()
        elif line[0] in " \t":  # set as written: a figure or an example
            self.flush()
        else:
            self.add(unescape(line))

    def macro(self, name, rest):
        if name in BLOCKS:
            self.until = BLOCKS[name]
            self.flush()
        elif name in ("de", "de1", "am", "ig"):
            self.until = ".."
        elif name in ("SH", "Sh"):
            self.flush()
            self.dropping = bool(DROPPED_SECTIONS.match(unescape(" ".join(arguments(rest))).strip()))
        elif name in ("TP", "TQ"):
            self.flush()
            self.tag = 1
        elif name in PARAGRAPH or name in ("SS", "Ss", "IP", "TH"):
            self.flush()
            self.tag = 0
        elif name in FONTS_SPACED:
            self.add(unescape(" ".join(arguments(rest))))
        elif name in FONTS_JOINED:
            self.add(unescape("".join(arguments(rest))))
        elif name in MDOC_TEXT:
            self.add(unescape(mdoc_text(name, arguments(rest), self.name)))
        elif name in ("UE", "ME") and self.words:
            self.words[-1] += unescape("".join(arguments(rest)))


def paragraphs_of(path, name):
    with gzip.open(path, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = re.sub(r"\\\n", "", text)
    if re.match(r"\s*\.so\s", text):
        return []
    page = Page(name)
    for line in text.split("\n"):
        page.line(re.sub(r'\\".*', "", line) if not line.startswith((".", "'")) else line)
    page.flush()
    return page.paragraphs


def key(paragraph):
    """Paragraphs that differ in digits, case or punctuation only are the same."""
    return re.sub(r"[\W\d_]+", " ", paragraph.lower()).strip()


def tidy(paragraph):
    paragraph = re.sub(r"<?(https?|ftp|file)://\S+|⟨[^⟩]*⟩", "", paragraph)
    paragraph = re.sub(r"\(\s*\)(?=[\s.,;:]|$)", "()", paragraph)
    paragraph = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", paragraph)
    return re.sub(r"\s+", " ", paragraph).strip()


def is_prose(paragraph, language):
    letters = sum(c.isalpha() for c in paragraph)
    words = re.findall(r"[^\W\d_]+", paragraph.lower())
    if letters < LEAST_LETTERS or letters < 0.7 * len(paragraph) or len(words) < 5:
        return False
    own = sum(word in COMMON_WORDS[language] for word in words)
    if own < 0.12 * len(words):
        return False
    return language == "en" or own > sum(word in COMMON_WORDS["en"] for word in words)


def read_pages(folder, language):
    """{page: its paragraphs of prose}, in the order of names."""
    pages = {}
    for section in sorted(os.listdir(folder)):
        if not re.fullmatch(r"man[1-9]", section):
            continue
        for file in sorted(os.listdir(os.path.join(folder, section))):
            path = os.path.join(folder, section, file)
            if not file.endswith(".gz") or os.path.islink(path):
                continue
            name = file[:-3]
            found = [tidy(p) for p in paragraphs_of(path, name.rsplit(".", 1)[0])]
            pages[name] = [p for p in found if is_prose(p, language)]
    return pages


def drop_repeated(pages, known):
    """Removes boilerplate, second copies and paragraphs whose key is in `known`."""
    counts = Counter(k for paragraphs in pages.values() for k in {key(p) for p in paragraphs})
    seen = set()
    for name, paragraphs in pages.items():
        kept = []
        for paragraph in paragraphs:
            k = key(paragraph)
            if counts[k] < MANY_PAGES and k not in seen and k not in known:
                seen.add(k)
                kept.append(paragraph)
        pages[name] = kept


def write_pages(pages, folder):
    os.makedirs(folder)
    written = size = 0
    for name, paragraphs in pages.items():
        text = "\n".join(paragraphs) + "\n"
        if len(text) < LEAST_PAGE:
            continue
        with open(os.path.join(folder, name + ".txt"), "w", encoding="utf-8") as file:
            file.write(text)
        written += 1
        size += len(text.encode("utf-8"))
    return written, size


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: clean_man.py ROOT OUT")
    man, out = os.path.join(sys.argv[1], "usr/share/man"), sys.argv[2]
    english = set()
    for language in ("en",) + LANGUAGES:
        pages = read_pages(man if language == "en" else os.path.join(man, language), language)
        if language == "en":
            english = {key(p) for paragraphs in pages.values() for p in paragraphs}
        drop_repeated(pages, set() if language == "en" else english)
        written, size = write_pages(pages, os.path.join(out, language))
        print(f"{language}: {written} of {len(pages)} pages, {size} bytes of prose")


if __name__ == "__main__":
    main()
