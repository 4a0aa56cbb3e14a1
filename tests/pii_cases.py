"""Made-up sentences with one identifier each, drawn from a seed: what the recall of the structured kinds is counted on.

A case is `(text, start, end)`. Check digits are right, numbers are random; no value belongs to anybody on purpose.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator

from metier.data.privacy.detectors.numbers import IBAN_LENGTHS

Case = tuple[str, int, int]
_PLAIN = (
    "{}",
    "Please see {}.",
    "It was {} all along.",
    "We wrote down {} and went home.",
    "Is it {}?",
    "({})",
    "Hello,\n{}\nthanks",
    "Look: {}, as agreed.",
    "the new one is {} now",
    "Value\t{}\tchecked",
)
_SENTENCES = ("Please see {}.", "It was {} all along.", "We wrote down {} and went home.", "Look: {}, as agreed.")
_HOSTS = ("example.com", "mail.example.org", "clinic-north.co.uk", "uni.example.edu", "beispiel.de", "post.example.fr")
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper", "kestrel", "larch")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def _digits(rng: random.Random, pattern: str) -> str:
    """`#` becomes a digit, `N` one from 2 to 9, `@` a capital; other characters stay."""
    signs = {"#": string.digits, "N": "23456789", "@": string.ascii_uppercase}
    return "".join(rng.choice(signs[c]) if c in signs else c for c in pattern)


def email(rng: random.Random) -> str:
    local = rng.choice(("{0}.{1}", "{0}", "{0}_{1}", "{0}{2}", "{0}+{1}", "{0}-{1}{2}", "{0}.{1}.{2}"))
    name = local.format(rng.choice(_WORDS), rng.choice(_WORDS), rng.randrange(99))
    host = rng.choice(_HOSTS)
    form = rng.randrange(6)
    if form == 0:
        return f"{name} (at) {host}"
    if form == 1:
        return f"{name}[at]{host.replace('.', '[dot]')}"
    if form == 2:
        return f"{name} at {host.replace('.', ' dot ')}"
    return name.upper() + "@" + host.upper() if form == 3 else f"{name}@{host}"


def url(rng: random.Random) -> str:
    host = rng.choice(_HOSTS)
    path = rng.choice(
        ("", "/", f"/{rng.choice(_WORDS)}", f"/{rng.choice(_WORDS)}/{rng.randrange(999)}?q={rng.choice(_WORDS)}")
    )
    return rng.choice(("https://", "http://", "https://www.", "www.", "", "ftp://")) + host + path


def ip(rng: random.Random) -> str:
    four = ".".join(str(rng.randrange(1, 256)) for _ in range(4))
    groups = [f"{rng.randrange(4096, 65536):x}" for _ in range(8)]
    return rng.choice(
        (
            four,
            four,
            f"{four}:{rng.randrange(1024, 9999)}",
            f"{four}/24",
            ":".join(groups),
            ":".join(groups).upper(),
            f"{groups[0]}:{groups[1]}::{groups[2]}",
            f"fe80::{':'.join(groups[:4])}",
            f"::ffff:{four}",
            f"{groups[0]}::",
            f"2001:db8::{groups[0]}",
        )
    )


def _with_luhn(body: str) -> str:
    total = sum(int(d) if i % 2 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(body)))
    return body + str(-total % 10)


def card(rng: random.Random) -> str:
    body = _digits(rng, rng.choice(("4" + "#" * 14, "5N" + "#" * 13, "6011" + "#" * 11, "37" + "#" * 12)))
    number = _with_luhn(body)
    if len(number) == 15:
        return rng.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))
    sign = rng.choice(("", " ", "-"))
    return sign.join(number[i : i + 4] for i in range(0, 16, 4))


def iban(rng: random.Random) -> str:
    country = rng.choice(sorted(IBAN_LENGTHS))
    body = _digits(rng, "#" * (IBAN_LENGTHS[country] - 4))
    if country in ("GB", "NL", "IE"):
        body = _digits(rng, "@@@@") + body[4:]
    number = int("".join(str(int(c, 36)) for c in body + country) + "00")
    whole = f"{country}{98 - number % 97:02d}{body}"
    spaced = " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))
    return rng.choice((whole, spaced, whole.lower(), spaced.replace(" ", "-")))


def ssn(rng: random.Random) -> str:
    return rng.choice(("{}-{}-{}", "{} {} {}")).format(
        rng.randrange(100, 899), _digits(rng, "N#"), _digits(rng, "####")
    )


def phone(rng: random.Random) -> str:
    """Forms that need no cue: the North American plan, international and national ones."""
    return _digits(
        rng,
        rng.choice(
            (
                "(N##) N##-####",
                "N##-N##-####",
                "N##.N##.####",
                "1-800-555-0199",
                "1-8N8-N##-####",
                "+1 N## N## ####",
                "+1-N##-N##-####",
                "+1 (N##) N##-####",
                "(N##)N##-####x####",
                "N##-N##-#### ext. ###",
                "+44 20 N### ####",
                "+44 (0)20 N### ####",
                "+49 30 N######",
                "+49 (0) 89 N## ####",
                "+33 1 ## ## ## ##",
                "01 ## ## ## N#",
                "0044 20 N### ####",
                "020 N### ####",
                "07N## ######",
                "(020) N### ####",
                "030/N######",
                "0N1-N#####N",
                "+91 9#### #####",
                "+86 138 #### ####",
                "+61 2 N### ####",
                "(02) N### ####",
                "+34 6## ### ###",
                "+39 06 N### ####",
                "+81 3 N### ####",
                "03-N###-####",
                "+358 40 N######",
                "1-800-FLOWERS",
            )
        ),
    )


def date(rng: random.Random) -> str:
    """More than twenty forms of a date."""
    y, m, d = rng.randrange(1920, 2027), rng.randrange(1, 13), rng.randrange(1, 29)
    name, short = MONTHS[m - 1], MONTHS[m - 1][:3]
    suffix = "th" if 11 <= d <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    return rng.choice(
        (
            f"{m:02d}/{d:02d}/{y}",
            f"{m}/{d}/{y}",
            f"{d}.{m}.{y}",
            f"{d:02d}.{m:02d}.{y}",
            f"{d:02d}-{m:02d}-{y}",
            f"{y}-{m:02d}-{d:02d}",
            f"{y}/{m:02d}/{d:02d}",
            f"{m}/{d}/{y % 100:02d}",
            f"{y}-{m:02d}-{d:02d}T08:15:30Z",
            f"{y}-{m:02d}-{d:02d} 14:05:59",
            f"{name} {d}, {y}",
            f"{short} {d}, {y}",
            f"{short}. {d}, {y}",
            f"{d} {name} {y}",
            f"{d} {short} {y}",
            f"{d}{suffix} of {name}, {y}",
            f"{name} {d}{suffix}, {y}",
            f"{name} the {d}{suffix}",
            f"{name} {d}",
            f"{d}-{short}-{y}",
            f"{d:02d}{short.upper()}{y}",
            f"{name} {y}",
            f"Monday, {name} {d}, {y}",
            f"Tue {d} {short} {y}",
            f"{d}. {name} {y}",
            f"{y}年{m}月{d}日",
            f"{d:02d}-{short}-{y % 100:02d}",
            f"{name.lower()} {d}, {y}",
            f"{name.upper()} {d}, {y}",
            f"{m}/{d}/{y} at 3:15 pm",
            f"{d} de marzo de {y}",
            f"{d} août {y}",
            f"{d}. Oktober {y}",
            f"{y}-{short}-{d:02d}",
        )
    )


def _checked(rng: random.Random, pattern: str, check: Callable[[str], bool], plain: str = r"[ .+-]") -> str:
    for _ in range(20_000):
        value = _digits(rng, pattern)
        try:
            if check(re.sub(plain, "", value)):
                return value
        except ValueError:
            continue
    raise AssertionError(f"no number fits {pattern}")


def national_id(rng: random.Random) -> str:
    """Numbers that their form and checksum give away without a cue."""
    from metier.data.privacy.detectors import checksums as c

    form = rng.randrange(12)
    day, month = f"{rng.randrange(1, 29):02d}", f"{rng.randrange(1, 13):02d}"
    if form == 0:
        return _checked(rng, "### ### ####", c.nhs)
    if form == 1:
        return _digits(rng, rng.choice(("AB ## ## ## C", "CE######D", "JG######A")))
    if form == 2:
        return _checked(rng, rng.choice(("########@", "X#######@", "########-@")), c.dni)
    if form == 3:
        return _checked(rng, f"1 ## {month} 75 ### ### ##", c.nir)
    if form == 4:
        return _checked(rng, f"@@@@@@##A{day}@###@", c.codice_fiscale, plain=r" ")
    if form == 5:
        return _checked(rng, f"##{month}{day}-####", c.luhn)
    if form == 6:
        return (
            _checked(rng, f"{day}{month}##-###@", c.hetu, plain="~")
            if rng.random() < 0.5
            else f"{day}{month}85-" + _digits(rng, "####")
        )
    if form == 7:
        return _checked(rng, "###.###.###-##", c.cpf)
    if form == 8:
        return _checked(rng, "N### #### ####", c.verhoeff)
    if form == 9:
        return _checked(rng, f"110105198{rng.randrange(10)}{month}{day}####", c.chinese)
    if form == 10:
        return _digits(rng, "@@@P@####@")
    return _digits(rng, "9##-7#-####")


def national_id_cued(rng: random.Random) -> str:
    from metier.data.privacy.detectors import checksums as c

    cue, pattern, check = rng.choice(
        (
            ("PESEL", f"85{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}#####", c.pesel),
            ("BSN", "#########", c.bsn),
            ("SIN", "### ### ###", c.luhn),
            ("NIF", "#########", c.nif),
            ("NHS number", "##########", c.nhs),
            ("Steuer-ID", "## ### ### ###", c.steuer_id),
            ("CPF", "###########", c.cpf),
        )
    )
    return f"{cue}: {_checked(rng, pattern, check)}"


CUED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "SSN": (("SSN {}", "her social security number is {}", "Social Security: {}", "ssn: {}"), ("N########",)),
    "PHONE": (
        ("call me at {}", "Phone: {}", "my mobile is {}", "tel. {}", "reach us on {}", "cell phone number: {}"),
        ("N######", "N##-####", "N##########", "## ## ## ##", "#### ####", "N## ## ###", "(88) N##-###"),
    ),
    "FAX": (("Fax: {}", "fax number {}", "please fax to {}"), ("N##-N##-####", "+49 30 N######", "N##-####")),
    "MRN": (
        ("MRN: {}", "medical record number {}", "Patient ID: {}", "MRN# {}", "hospital number is {}"),
        ("########", "@######", "##-##-##", "MR######", "#####"),
    ),
    "HEALTH_PLAN": (
        ("Member ID: {}", "insurance number {}", "Medicare number is {}", "policy no. {}", "subscriber id {}"),
        ("@@@#########", "#########", "1@@#-@@#-@@##", "W########"),
    ),
    "ACCOUNT": (
        ("account number {}", "my account is {}", "acct: {}", "Account #: {}", "customer number {}", "Invoice no. {}"),
        ("########", "##########", "##-####-####", "AC######"),
    ),
    "LICENSE": (
        ("driver's license {}", "license number is {}", "DL: {}", "certificate no. {}", "DEA number {}", "NPI: {}"),
        ("@#######", "@@######", "##########", "@###-####-####"),
    ),
    "VEHICLE": (
        ("license plate {}", "number plate: {}", "plate number is {}", "VIN: {}"),
        ("@@@-####", "@@##@@@", "1HGCM########3##5"),
    ),
    "DEVICE": (
        ("serial number {}", "S/N: {}", "IMEI: {}", "device ID {}"),
        ("SN########", "35#############", "@@##-####-##"),
    ),
    "PASSPORT": (("passport {}", "Passport number: {}", "passport no. is {}"), ("@########", "#########", "@@#######")),
    "ZIP": (
        ("zip code {}", "ZIP: {}", "postal code is {}", "postcode {}"),
        ("#####", "#####-####", "SW1A 1AA", "K1A 0B1"),
    ),
    "OTHER_ID": (
        ("employee ID {}", "user id: {}", "student number id {}", "ticket {}", "badge: {}"),
        ("E######", "########", "@@-#####"),
    ),
}
AGES = (
    "{} years old",
    "a {}-year-old woman",
    "aged {}",
    "age: {}",
    "he is {} y/o",
    "at the age of {}",
    "she turned {}",
)


def _placed(frame: str, value: str) -> Case:
    start = frame.index("{}")
    return frame.replace("{}", value), start, start + len(value)


def cases(kind: str, count: int, seed: int = 0) -> Iterator[Case]:
    """Yield so many cases of one kind (a key of GENERATED)."""
    rng = random.Random(f"{kind}-{seed}")
    for _ in range(count):
        yield GENERATED[kind](rng)


def _free(make: Callable[[random.Random], str], frames: tuple[str, ...] = _PLAIN) -> Callable[[random.Random], Case]:
    return lambda rng: _placed(rng.choice(frames), make(rng))


def _cued(kind: str) -> Callable[[random.Random], Case]:
    def make(rng: random.Random) -> Case:
        frames, patterns = CUED[kind]
        text, start, end = _placed(rng.choice(frames), _digits(rng, rng.choice(patterns)))
        lead = rng.choice(("", "Hello, ", "As I said, "))
        tail = rng.choice(("", ".", ", thank you", " please"))
        return lead + text + tail, len(lead) + start, len(lead) + end

    return make


def _age(rng: random.Random) -> Case:
    return _placed(rng.choice(AGES), str(rng.choice((*range(90, 110), "ninety-two"))))


def _national_cued(rng: random.Random) -> Case:
    value = national_id_cued(rng)
    cue = value.index(": ") + 2
    return f"My {value}.", 3 + cue, 3 + len(value)


GENERATED: dict[str, Callable[[random.Random], Case]] = {
    "EMAIL": _free(email),
    "URL": _free(url),
    "IP": _free(ip),
    "CARD": _free(card),
    "IBAN": _free(iban),
    "SSN": _free(ssn),
    "PHONE": _free(phone, _SENTENCES),
    "DATE": _free(date),
    "NATIONAL_ID": _free(national_id, _SENTENCES),
    "AGE": _age,
    "NATIONAL_ID cued": _national_cued,
    **{f"{kind} cued": _cued(kind) for kind in CUED},
}
"""Name of a generated set → how one case is drawn; the name's first word is the kind."""


def numeric_table(rng: random.Random, num_bytes: int) -> str:
    """Return a table of numbers: integers, decimals, thousands, years, in columns of several layouts."""
    lines: list[str] = []
    size = 0
    while size < num_bytes:
        separator = rng.choice(("  ", "\t", ", ", " | ", ";", " "))
        makers: list[Callable[[], str]] = [
            lambda: str(rng.randrange(10**9)),
            lambda: f"{rng.uniform(-999, 9999):.2f}",
            lambda: f"{rng.randrange(10**7):,}",
            lambda: str(rng.randrange(1900, 2030)),
            lambda: f"{rng.random():.6f}",
            lambda: str(rng.randrange(1000)),
            lambda: f"{rng.randrange(100, 1000)} {rng.randrange(100, 1000)}",
            lambda: f"{rng.uniform(0, 100):.1f}%",
            lambda: f"{rng.uniform(0, 9):.3e}",
            lambda: f"({rng.randrange(1, 9999)})",
            lambda: f"{rng.randrange(10, 99)}-{rng.randrange(100, 999)}",
        ]
        columns = [rng.choice(makers) for _ in range(rng.randrange(2, 9))]
        label = rng.choice(("", "", "total", "row", "mean", "net sales"))
        for _ in range(rng.randrange(3, 20)):
            line = separator.join([*([label] if label else []), *(make() for make in columns)])
            lines.append(line)
            size += len(line) + 1
    return "\n".join(lines)


_HOSTILE = (
    "a",
    "1",
    " ",
    "-",
    ".",
    "@",
    ":",
    "/",
    "(",
    ")",
    "\n",
    "A",
    "Aa ",
    "1 ",
    "1-",
    "a.",
    "@a",
    "a@",
    "0:",
    "::",
    "www.",
    "http://",
    "+1 ",
    "(1)",
    "'s ",
    "de ",
    "van der ",
    "Mr. ",
    "St ",
    "12 Main ",
    "Apt ",
    "name is ",
    "IBAN ",
    "DE89 ",
    "1,000 ",
    "é",
    "中",
    "\u200b",
    "\t",
    "_",
    "[at]",
    " dot ",
    "May ",
    "3rd ",
    "of ",
    "and ",
    ", ",
    "A.",
    "1a",
    "#",
    "\x00",
    "call me ",
    "phone ",
    "number ",
    "is ",
    "my ",
    "no ",
    "x1",
    "/2",
    "2020-",
    "=\n",
    "\ud800",
)


def hostile(rng: random.Random) -> str:
    """Return a string that was made to make patterns try again and again: a few parts, repeated, broken at the end."""
    parts = [rng.choice(_HOSTILE) for _ in range(rng.randrange(1, 5))]
    unit = "".join(parts)
    length = rng.choice((50, 500, 5000, 20_000))
    if rng.random() < 0.3:
        text = "".join(rng.choice(_HOSTILE) for _ in range(length // 2))
    else:
        text = unit * max(1, length // len(unit))
    return text[:length] + rng.choice(("", "!", "@", "x", "\n", "0", " a"))
