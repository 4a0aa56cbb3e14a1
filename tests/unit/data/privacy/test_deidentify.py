"""The step: tags, masks and surrogates; the vault's file; secrets."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.extras import installed
from metier.core.types import Conversation, Labelled, Message, Problem, Text, ToolCall, identify
from metier.data.privacy import surrogates, vault
from metier.data.privacy.detectors.checksums import luhn
from metier.data.privacy.engine import detect
from metier.data.privacy.surrogates import Vault, surrogate
from metier.data.steps import deidentify, redact_secrets

NOTE = (
    "Zbigniew Kowalczyk, born 5 March 1961, lives at 12 Main Street, Springfield. Call 212-555-0134.\nKowalczyk agreed."
)


def run(text: str, **options: str) -> str:
    return deidentify.deidentify(text, deidentify.Options.model_validate(options), Counter())


def test_tags_name_the_kind_and_leave_the_rest() -> None:
    assert run(NOTE) == "[PERSON], born [DATE], lives at [ADDRESS]. Call [PHONE].\n[PERSON] agreed."


def test_a_mask_keeps_length_and_punctuation() -> None:
    masked = run(NOTE, strategy="mask")
    assert len(masked) == len(NOTE)
    assert "███-███-████" in masked
    assert re.sub(r"\w", "", NOTE).replace("\n", "") == re.sub(r"[\w█]", "", masked).replace("\n", "")


@pytest.mark.parametrize("strategy", ["tag", "mask"])
def test_what_was_changed_is_left_alone_the_second_time(strategy: str) -> None:
    once = run(NOTE, strategy=strategy)
    assert run(once, strategy=strategy) == once


def test_every_message_of_a_conversation_is_read_and_labels_stay() -> None:
    chat = identify(
        Conversation(messages=(Message("user", "I am Zbigniew Kowalczyk."), Message("assistant", "Hello, Kowalczyk!")))
    )
    labelled = identify(Labelled(text="It was Kowalczyk.", target="Kowalczyk"))
    result = deidentify.run([chat, labelled, identify(Text(text="Nothing here."))], deidentify.Options())
    first, second, third = result.examples
    assert isinstance(first, Conversation)
    assert [m.content for m in first.messages] == ["I am [PERSON].", "Hello, [PERSON]!"]
    assert isinstance(second, Labelled)
    assert (second.text, second.target) == ("It was [PERSON].", "Kowalczyk")
    assert third.id == identify(Text(text="Nothing here.")).id
    assert result.note == "2 of 3 rows changed: 3 PERSON"


def called(text: str, arguments: str) -> Conversation:
    calls = (ToolCall("send", json.loads(arguments), arguments, "c1"),)
    return identify(
        Conversation(
            messages=(
                Message("user", text, name="Zbigniew Kowalczyk"),
                Message("assistant", "", tool_calls=calls),
                Message("tool", "sent", tool_call_id="c1", name="send"),
            )
        )
    )


def test_names_of_speakers_and_arguments_of_tools_are_read() -> None:
    arguments = '{"to": ["Zbigniew Kowalczyk"],  "phone": "212-555-0134", "note": {"mrn": 48213}, "n": 3, "on": true}'
    row = called("Please write to him.", arguments)
    (made,) = deidentify.run([row], deidentify.Options()).examples
    assert isinstance(made, Conversation)
    asked, reply, answer = made.messages
    assert (asked.name, answer.name, answer.tool_call_id) == ("[PERSON]", "send", "c1")
    (call,) = reply.tool_calls
    assert call.arguments == {"to": ["[PERSON]"], "phone": "[PHONE]", "note": {"mrn": "[MRN]"}, "n": 3, "on": True}
    assert json.loads(call.arguments_text) == call.arguments and (call.name, call.id) == ("send", "c1")
    assert made.id == identify(made).id != row.id
    (again,) = deidentify.run([made], deidentify.Options()).examples
    assert again == made
    plain = called("Please write to him.", '{"n":  3}')
    assert deidentify.run([plain], deidentify.Options()).examples[0].messages[1] == plain.messages[1]  # type: ignore[union-attr]


def test_secrets_in_arguments_and_items_are_replaced_by_what_their_key_says() -> None:
    row = called("Go.", '{"api_key": "q9Zt7LwX2bVr5KmN8dHs", "twice": "q9Zt7LwX2bVr5KmN8dHs", "api_key": "none"}')
    problem = identify(Problem(prompt=(Message("user", "Go."),), item={"password": "hunter2!x", "answer": "42"}))
    result = redact_secrets.run([row, problem], redact_secrets.Options())
    first, second = result.examples
    assert isinstance(first, Conversation) and isinstance(second, Problem)
    (call,) = first.messages[1].tool_calls
    assert json.loads(call.arguments_text) == call.arguments
    assert call.arguments == {"api_key": "none", "twice": "q9Zt7LwX2bVr5KmN8dHs"}
    assert call.arguments_text.count("q9Zt7LwX2bVr5KmN8dHs") == 1, "what a repeated key said before is gone"
    assert second.item == {"password": redact_secrets.TAG, "answer": "42"} and second.id == identify(second).id
    assert result.note == "1 secrets replaced in 2 of 2 rows"


# ───────────────────────────────────────────────────────────────────────────── surrogates


def test_a_subject_has_one_surrogate_in_every_form_of_the_name() -> None:
    safe = Vault(b"x" * 32)
    made = surrogates.replace(NOTE, detect(NOTE), safe)
    whole, again = re.match(r"(\w+ \w+),", made), re.search(r"\n(\w+) agreed", made)
    assert whole
    assert again
    assert whole[1].split()[1] == again[1]
    assert surrogate("KOWALCZYK", "PERSON", safe) == again[1].upper()
    for gone in ("Zbigniew", "Kowalczyk", "March", "Main", "Springfield", "555"):
        assert gone not in made
    assert "born 1961, lives" in made


def test_surrogates_are_plausible() -> None:
    safe = Vault(b"y" * 32)
    assert re.fullmatch(r"Dr\. [A-Z][a-z]+ van [A-Z][a-z]+", surrogate("Dr. Anna van Dyk", "PERSON", safe))
    assert re.fullmatch(r"[А-Я][а-я]+", surrogate("Иванова", "PERSON", safe))
    assert re.fullmatch(r"\(\d{3}\) \d{3}-\d{4} x\d{2}", surrogate("(212) 555-0134 x12", "PHONE", safe))
    assert luhn(surrogate("4111 1111 1111 1111", "CARD", safe).replace(" ", ""))
    assert re.fullmatch(r"\w+\.\w+@example\.org", surrogate("a@b.com", "EMAIL", safe))
    assert re.fullmatch(r"\d+ \w+ Street, Apt \w+", surrogate("12 Main Street, Apt 4b", "ADDRESS", safe))
    assert surrogate("on 5 March", "DATE", safe) == "[DATE]"
    ages = [surrogate(age, "AGE", safe) for age in ("97", "ninety-one", "90", "89", "42 years", "7", "90+", "old")]
    assert ages == ["90+", "90+", "90+", "80-89", "40-49", "0-9", "90+", "[AGE]"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("Иванов-12", "MRN"), ("Ωμέγα Β7", "OTHER_ID"), ("王七", "ACCOUNT"), ("Müller", "LICENSE"),
        ("नमस्ते ५६", "OTHER_ID"), ("ab²", "DEVICE"), ("call anna at home", "PHONE"), ("anna x", "FAX"),
        ("李", "PERSON"), ("n/a", "CARD"),
    ],
)  # fmt: skip
def test_no_letter_or_digit_of_any_script_stays_where_it_was(value: str, kind: str) -> None:
    drawn = [surrogate(value, kind, Vault(bytes([seed]) * 32)) for seed in range(12)]
    for place, sign in enumerate(value):
        if sign.isalnum() and all(len(made) > place for made in drawn):
            assert any(made[place] != sign for made in drawn), (place, sign)
    assert all(made != value for made in drawn)


def test_of_a_phone_only_the_word_for_its_extension_stays() -> None:
    safe = Vault(b"p" * 32)
    assert re.fullmatch(r"\d{3}-\d{3}-\d{4} ext\. \d{2}", surrogate("212-555-0134 ext. 12", "PHONE", safe))
    assert re.fullmatch(r"\d{3}-\d{3}-\d{4}x\d", surrogate("212-555-0134x9", "FAX", safe))
    zeros = {surrogate("212-555-0000", "PHONE", Vault(bytes([seed]) * 32))[-4:] for seed in range(8)}
    assert zeros != {"0000"}


def test_a_year_that_tells_an_age_over_89_is_no_year_under_safe_harbor() -> None:
    old = datetime.now(UTC).year - 90
    safe = Vault(b"q" * 32)
    assert surrogate(f"5 March {old}", "DATE", safe, old) == f"{old} or earlier"
    assert surrogate(f"5 March {old - 30}", "DATE", safe, old) == f"{old} or earlier"
    assert surrogate(f"5 March {old + 1}", "DATE", safe, old) == f"{old + 1}"
    assert surrogate(f"5 March {old - 30}", "DATE", safe) == f"{old - 30}"
    options = deidentify.Options(profile="hipaa-safe-harbor", columns={"born": "year"})
    rows = [identify(Text(text="Hello.", meta={"born": f"{year}-03-05"})) for year in (old - 1, old, old + 1)]
    born = [row.meta["born"] for row in deidentify.run([*rows], options).examples]
    assert born == [f"{old} or earlier", f"{old} or earlier", f"{old + 1}"]
    again = [row.meta["born"] for row in deidentify.run(deidentify.run([*rows], options).examples, options).examples]
    assert again == born
    gdpr = deidentify.run([*rows], deidentify.Options(columns={"born": "year"})).examples
    assert gdpr[0].meta["born"] == f"{old - 1}"


def test_no_two_values_share_a_surrogate_and_none_is_a_value() -> None:
    safe = Vault(b"z" * 32)
    names = [
        f"{a}{b}owski".capitalize() for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ar", "el", "in")
    ]
    made = [surrogate(name, "PERSON", safe) for name in names]
    assert len(set(made)) == len(names)
    assert set(made).isdisjoint(names)
    ids = [surrogate(f"{i:05d}", "MRN", safe) for i in range(500)]
    assert len(set(ids)) == 500


def test_another_seed_draws_another_surrogate_and_a_vault_remembers_its_own() -> None:
    one, other = Vault(b"1" * 32), Vault(b"2" * 32)
    assert surrogate("Kowalczyk", "PERSON", one) != surrogate("Kowalczyk", "PERSON", other)
    assert surrogate("kowalczyk", "PERSON", one) == surrogate("Kowalczyk", "PERSON", one).lower()


def test_surrogates_without_a_vault_are_refused() -> None:
    with pytest.raises(ConfigError, match="E209"):
        run(NOTE, strategy="surrogate")


needs_cryptography = pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed")


@pytest.mark.skipif(installed("cryptography") is not None, reason="cryptography is installed")
def test_a_vault_is_refused_where_cryptography_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="E450") as caught, vault.opened(tmp_path / "a.vault"):
        pass
    assert "metier[privacy]" in caught.value.fix or "cryptography" in caught.value.fix
    assert not (tmp_path / "a.vault").exists()


@pytest.fixture
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config" / "vault.key"


@needs_cryptography
def test_a_vault_comes_back_from_its_file_which_shows_nothing(tmp_path: Path, own_key: Path) -> None:
    file = tmp_path / "private" / "vaults" / "notes.vault"
    with vault.opened(file):
        first = run(NOTE, strategy="surrogate")
    with vault.opened(file) as safe:
        assert run(NOTE, strategy="surrogate") == first
        assert ("kowalczyk") in safe.entries["WORD"]
    assert b"kowalczyk" not in file.read_bytes().lower()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert own_key.stat().st_mode & 0o777 == 0o600


@needs_cryptography
def test_a_damaged_vault_and_a_lost_key_are_named(tmp_path: Path, own_key: Path) -> None:
    file = tmp_path / "a.vault"
    vault.save(Vault(b"s" * 32), file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="E365"):
        vault.load(file)
    file.write_bytes(whole)
    assert vault.load(file).seed == b"s" * 32
    own_key.unlink()
    with pytest.raises(DataError, match="E365"):
        vault.load(file)


# ───────────────────────────────────────────────────────────────────────────── secrets


@pytest.mark.parametrize(
    "text",
    [
        "key AKIA" + "ABCDEFGH12345678",
        "use ghp_" + "a1B2c3D4" * 5,
        "sk-proj-" + "A1b2C3d4E5f6G7h8I9j0",
        "xoxb-" + "123456789012-abcdefABCDEF",
        "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
        "Authorization: Bearer a9F3kLmQ7xR2tV8zB1nC",
        "password: hunter2!x",
        "postgres://admin:s3cr3t@db.example.com/x",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.c2lnbmF0dXJlLXZhbHVl",
    ],
)
def test_a_credential_is_replaced(text: str) -> None:
    assert redact_secrets.redact(text, redact_secrets.Options()).count(redact_secrets.TAG) == 1


@pytest.mark.parametrize(
    "text",
    [
        "the token is invalid", "I forgot my password again", "password reset instructions", "a secret: nobody knows",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8", "the bearer of this letter", "api key rotation policy",
    ],
)  # fmt: skip
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact_secrets.redact(text, redact_secrets.Options()) == text


def test_entropy_is_in_bits_per_character() -> None:
    assert redact_secrets.entropy("aaaa") == 0
    assert redact_secrets.entropy("abcd") == 2
