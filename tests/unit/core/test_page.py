"""Numbers in words, and text made safe to show."""

from __future__ import annotations

import base64
import hashlib

import pytest

from metier.core import page


@pytest.mark.parametrize(
    ("value", "unit", "sign", "shown"),
    [
        (0.93149, "share", False, "93.1\u00a0%"),
        (0.0407, "share", True, "+4.1\u00a0points"),
        (-0.032, "share", True, "−3.2\u00a0points"),
        (0.0, "share", True, "0.0\u00a0points"),
        (1.42134, "bits/byte", False, "1.421\u00a0bits/byte"),
        (18.2, "", False, "18.20"),
        (12345.6, "", False, "12,346"),
        (2e-5, "", False, "2e-05"),
        (-2.5, "", False, "−2.500"),
        (None, "share", False, "–"),
        (float("nan"), "", False, "–"),
    ],
)
def test_number(value: float | None, unit: str, sign: bool, shown: str) -> None:
    assert page.number(value, unit, sign=sign) == shown


def test_interval_names_the_unit_once_and_survives_negative_bounds() -> None:
    assert page.interval(0.921, 0.94, "share") == "92.1–94.0\u00a0%"
    assert page.interval(-0.051, -0.014, "share", sign=True) == "−5.1 to −1.4\u00a0points"
    assert page.interval(-1, 2) == "−1 to 2"
    assert page.interval(None, 0.5) == ""


def test_times_and_sizes() -> None:
    assert page.duration(412.7) == "6\u00a0min 53\u00a0s"
    assert page.duration(3 * 3600 + 29) == "3\u00a0h 29\u00a0s"
    assert page.duration(0) == "0.0\u00a0s"
    assert page.size(1_340_000_000) == "1.34\u00a0GB"
    assert page.size(999) == "999\u00a0bytes"
    assert page.moment("2026-08-01T23:30:00.000-02:00") == "2 August 2026, 01:30 UTC"
    assert page.moment("yesterday") == "yesterday"


def test_control_and_direction_characters_become_visible() -> None:
    assert page.visible("a\x00\x1b[31m\x85\u202eb\ud800\r\nc\td") == "a␀␛[31m⟨U+0085⟩⟨U+202E⟩b⟨U+D800⟩\nc\td"
    assert page.visible("👩\u200d⚕️ مرحبا") == "👩\u200d⚕️ مرحبا"  # joiners hold emoji together


def test_markdown_cannot_break_out_of_a_cell_or_fence() -> None:
    assert page.markdown("a | <b>\n**c**") == r"a \| &lt;b&gt; \*\*c\*\*"
    assert page.fence("x\n````\ny").startswith("`````text\n")
    assert page.code("a `b` c") == "`` a `b` c ``"


def test_label_counts_wide_characters_twice() -> None:
    assert page.label("日本語のラベル", 8) == "日本語の…"
    assert page.label(" two\nlines ") == "two lines"


def test_policy_allows_exactly_the_style_sheet() -> None:
    css = page.style()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.policy(css)
    assert "default-src 'none'" in page.policy(css)
    assert "unsafe" not in page.policy(css)
    assert "url(" not in css and "@import" not in css
