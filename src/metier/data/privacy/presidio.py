"""Presidio's checksummed recognisers as one more detector, where `presidio-analyzer` is installed.

They know national numbers of more countries than our rules; many are off by default in Presidio itself. Three things
are set up by hand. Its e-mail recogniser asks `tldextract` for the list of domains, which goes to the network: ours
reads the snapshot that ships with that package. A blank spaCy pipeline has no lemmas, and without them no cue word
raises a score: the word itself, small, is its lemma. And no model is loaded, since Presidio would download one.

Left out: names and places by a spaCy or GLiNER model, and recognisers without a checksum, which overlap our rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from metier.core.extras import need
from metier.data.privacy.spans import Span

KINDS_OF = {
    "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN", "CRYPTO": "ACCOUNT", "EMAIL_ADDRESS": "EMAIL",
    "MEDICAL_LICENSE": "LICENSE", "US_NPI": "LICENSE", "UK_NHS": "HEALTH_PLAN", "AU_MEDICARE": "HEALTH_PLAN",
    "DE_HEALTH_INSURANCE": "HEALTH_PLAN", "DE_PASSPORT": "PASSPORT", "DE_ID_CARD": "NATIONAL_ID",
    "DE_SOCIAL_SECURITY": "NATIONAL_ID", "DE_TAX_ID": "NATIONAL_ID", "AU_TFN": "NATIONAL_ID",
    "ES_NIE": "NATIONAL_ID", "ES_NIF": "NATIONAL_ID", "FI_PERSONAL_IDENTITY_CODE": "NATIONAL_ID",
    "IN_AADHAAR": "NATIONAL_ID", "IT_FISCAL_CODE": "NATIONAL_ID", "KR_RRN": "NATIONAL_ID", "NG_NIN": "NATIONAL_ID",
    "PL_PESEL": "NATIONAL_ID", "SE_PERSONNUMMER": "NATIONAL_ID", "TH_TNIN": "NATIONAL_ID",
    "TR_NATIONAL_ID": "NATIONAL_ID", "ZA_ID_NUMBER": "NATIONAL_ID",
}  # fmt: skip
"""Presidio's entity → our kind. Numbers of firms are left out: they identify nobody."""
LEAST_SCORE = 0.6
"""A checksum that fits scores 1, one that the recogniser cannot decide 0.1 to 0.5, and a cue word adds 0.35."""
WHY = "find identifiers by Presidio's recognisers (`detectors: [presidio]`; our own rules need nothing)"


class Presidio:
    """A `Detector` (engine.py) around Presidio's analyzer."""

    def __init__(self, analyzer: Any) -> None:
        self.analyzer = analyzer

    def find(self, text: str) -> Iterator[Span]:
        """Yield what the recognisers find with enough confidence."""
        if not any(map(str.isdigit, text)) and "@" not in text:
            return  # no identifier with a checksum is without a digit, and the pipeline is slow
        for found in self.analyzer.analyze(text, language="en", score_threshold=LEAST_SCORE):
            if found.end > found.start:
                yield Span(found.start, found.end, KINDS_OF[found.entity_type])


@cache
def detector() -> Presidio:
    """Return the detector; it is set up once, which takes seconds.

    Raises:
        MachineError: E450, `presidio-analyzer` is not installed.
    """
    presidio = need("presidio_analyzer", WHY)
    registry = presidio.RecognizerRegistry(recognizers=_recognisers(presidio), supported_languages=["en"])
    return Presidio(presidio.AnalyzerEngine(registry=registry, nlp_engine=_pipeline(), supported_languages=["en"]))


def _recognisers(presidio: Any) -> list[Any]:
    """Return the recognisers of the entities above which check what they find, in English whatever their country."""
    ready = need("presidio_analyzer.predefined_recognizers", WHY)
    domains = need("tldextract", WHY).TLDExtract(cache_dir=None, suffix_list_urls=(), fallback_to_snapshot=True)

    class Emails(ready.EmailRecognizer):  # type: ignore[name-defined, misc]
        """Presidio's e-mail recogniser with the list of domains that ships."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    found: list[Any] = [Emails(supported_language="en")]
    classes: list[tuple[str, Any]] = inspect.getmembers(ready, inspect.isclass)
    for _, cls in classes:
        by_pattern = issubclass(cls, presidio.PatternRecognizer) and cls is not ready.EmailRecognizer
        if by_pattern and ("validate_result" in vars(cls) or "invalidate_result" in vars(cls)):
            made: Any = cls(supported_language="en")
            if set(made.supported_entities) <= KINDS_OF.keys():
                found.append(made)
    return found


def _pipeline() -> Any:
    """Return an NLP engine that cuts words and knows each word, small, as its lemma."""
    language = need("spacy.language", WHY).Language
    engines = need("presidio_analyzer.nlp_engine", WHY)
    name = "metier_small_words"
    if not language.has_factory(name):

        def small(doc: Any) -> Any:
            for token in doc:
                token.lemma_ = token.lower_
            return doc

        language.component(name, func=small)
    blank = need("spacy", WHY).blank("en")
    blank.add_pipe(name)

    class Words(engines.SpacyNlpEngine):  # type: ignore[name-defined, misc]
        """Presidio's spaCy engine around a pipeline that is there already: it loads, and downloads, nothing."""

        def load(self) -> None:
            self.nlp = {"en": blank}

    return Words()
