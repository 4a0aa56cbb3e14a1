"""Check digits: the arithmetic that tells a number from its look-alikes. Every function takes the bare characters."""

from __future__ import annotations

import string
from collections.abc import Sequence


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right doubled, the sum of digits divisible by 10."""
    total = sum(map(int, digits[-1::-2]))
    total += sum(d * 2 - 9 * (d > 4) for d in map(int, digits[-2::-2]))
    return total % 10 == 0


def mod97(characters: str) -> bool:
    """ISO 13616 (IBAN): the first four characters moved to the end, letters as 10–35, remainder 1 by 97."""
    moved = characters[4:] + characters[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Return the sum of digit times weight; as many digits are read as there are weights."""
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


_D5 = [[(i + j) % 5 + 5 * 0 for j in range(5)] + [(i + j) % 5 + 5 for j in range(5)] for i in range(5)]
_D5 += [[(i - j) % 5 + 5 for j in range(5)] + [(i - j) % 5 for j in range(5)] for i in range(5)]
_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def verhoeff(digits: str) -> bool:
    """Verhoeff 1969, over the dihedral group of ten elements (Aadhaar)."""
    value = 0
    for position, digit in enumerate(map(int, reversed(digits))):
        for _ in range(position % 8):
            digit = _TURN[digit]
        value = _D5[value][digit]
    return value == 0


def nhs(d: str) -> bool:
    """United Kingdom, NHS number: ten digits, weights 10–2, modulo 11."""
    check = 11 - weighted(d, range(10, 1, -1)) % 11
    return check != 10 and check % 11 == int(d[9])


def dni(value: str) -> bool:
    """Spain, DNI and NIE: the letter is the number modulo 23."""
    number = value[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == value[-1]


def nir(value: str) -> bool:
    """France, NIR: 97 minus the thirteen digits modulo 97 (2A and 2B of Corsica as 19 and 18)."""
    number = value.replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number[:13]) % 97 == int(number[13:])


def steuer_id(d: str) -> bool:
    """Germany, tax id: ISO 7064 modulo 11,10."""
    product = 10
    for digit in map(int, d[:10]):
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(d[10])


def codice_fiscale(value: str) -> bool:
    """Italy: odd places by their own table, even places by value, modulo 26."""
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    total = 0
    for place, c in enumerate(value[:15]):
        plain = int(c) if c.isdigit() else ord(c) - ord("A")
        total += odd[plain] if place % 2 == 0 else plain
    return string.ascii_uppercase[total % 26] == value[15]


def pesel(d: str) -> bool:
    """Poland: eleven digits, weights 1 3 7 9, modulo 10, and a possible month and day."""
    month, day = int(d[2:4]) % 20, int(d[4:6])
    total = weighted(d, (1, 3, 7, 9) * 2 + (1, 3))
    return 1 <= month <= 12 and 1 <= day <= 31 and (10 - total % 10) % 10 == int(d[10])


def bsn(d: str) -> bool:
    """Netherlands: nine digits, the eleven-test with −1 for the last."""
    return int(d) > 0 and (weighted(d, range(9, 1, -1)) - int(d[8])) % 11 == 0


def belgian(d: str) -> bool:
    """Belgium, national register number: 97 minus the nine digits modulo 97, with a 2 before them from 2000 on."""
    return any(97 - int(lead + d[:9]) % 97 == int(d[9:]) for lead in ("", "2"))


def hetu(value: str) -> bool:
    """Finland: the nine digits modulo 31 name the last character."""
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(value[:6] + value[7:10]) % 31] == value[10]


def norwegian(d: str) -> bool:
    """Norway: two check digits, modulo 11 each."""
    first = (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)
    second = (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)
    return weighted(d, first) % 11 == 0 and weighted(d, second) % 11 == 0


def nif(d: str) -> bool:
    """Portugal: nine digits, weights 9–2, modulo 11."""
    check = 11 - weighted(d, range(9, 1, -1)) % 11
    return (0 if check > 9 else check) == int(d[8])


def tfn(d: str) -> bool:
    """Australia, tax file number: nine digits, modulo 11."""
    return weighted(d, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def cpf(d: str) -> bool:
    """Brazil: two check digits, modulo 11; eleven equal digits pass the sum and are none."""
    if len(set(d)) == 1:
        return False
    for length in (9, 10):
        check = weighted(d, range(length + 1, 1, -1)) * 10 % 11 % 10
        if check != int(d[length]):
            return False
    return True


def chinese(value: str) -> bool:
    """China, resident identity number: ISO 7064 modulo 11-2, the last character may be X."""
    total = sum(int(c) * (2 ** (17 - i) % 11) for i, c in enumerate(value[:17]))
    return "10X98765432"[total % 11] == value[17]


def vin(value: str) -> bool:
    """North America, vehicle identification number: the ninth character is the weighted sum modulo 11 (49 CFR 565)."""
    letters = dict(
        zip(
            "ABCDEFGHJKLMNPRSTUVWXYZ",
            (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9),
            strict=True,
        )
    )
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    total = sum((int(c) if c.isdigit() else letters[c]) * w for c, w in zip(value, weights, strict=True))
    return "0123456789X"[total % 11] == value[8]
