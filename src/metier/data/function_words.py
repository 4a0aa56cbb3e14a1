"""Function words of a few languages: pronouns, articles, prepositions, auxiliaries, question words.

Written by hand for this project, of three letters and more. They name no topic. A list is used where a text is in its
language, since `war` and `son` are ordinary words of another.
"""

from __future__ import annotations

from collections.abc import Mapping

MIN_SHARE = 0.1
"""A text is in a language, or in a kin of it, where so many of its words are function words of that language, the most
frequent one aside: it may be an ordinary word of another."""

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the and but for nor not yet with without from into onto over under about after before between"
        " through during this that these those there here then than when where why how who whom whose what"
        " which while because until you your yours she her hers him his its our ours they them their theirs"
        " myself yourself are was were been being have has had having does did doing done can could may might"
        " must shall should will would just also too very any some all each every both either neither much"
        " many more most such only own same other again once out off down upon don didn doesn isn aren wasn"
        " weren won wouldn couldn shouldn haven hasn hadn let get got",
        "de": "der die das den dem des ein eine einen einem einer eines und oder aber nicht auch noch nur schon"
        " sehr ich mich mir mein meine meinen dich dir dein sie wir uns ihr euch ihre ihrem ihren sein seine"
        " seinen ist sind war waren bin wird werden wurde wurden hat habe haben hatte hatten kann können muss"
        " soll mit von vom zum zur bei aus auf für über unter nach vor durch als wie was wer wen wem wann"
        " warum welche welcher welches welchen welchem dass wenn weil",
        "fr": "les une des dans pour par sur avec sans que qui quoi dont est sont était sera être avoir avez avons"
        " ont nous vous ils elles mon mes ton tes son ses notre votre leur leurs cette ces pas plus mais donc"
        " comme quand comment pourquoi quel quelle quels quelles aux",
        "es": "los las una unos unas del que por para con sin sobre entre como pero más muy cuando donde quien cual"
        " cuál qué cómo cuándo está están fue fueron era son ser estar tiene tienen hay mis sus nos les esta"
        " este esto ese esa",
        "it": "gli della delle degli dei nel nella con per che chi cui non più come quando dove perché sono era"
        " essere avere hai abbiamo hanno mio mia tuo suo sua questo questa quello quella",
        "pt": "uma uns umas dos das nos nas pelo pela com sem não mais mas você ele ela eles elas meu minha seu sua"
        " são foi está",
        "nl": "het een van voor met niet maar ook naar wat wie waar wanneer waarom hoe welke ben bent zijn wordt"
        " werd hebben heeft mijn jouw haar onze deze dit",
    }.items()
}


def function_words(counts: Mapping[str, int]) -> frozenset[str]:
    """Return the function words of the languages that words, each with how often it stands there, are in."""
    total = sum(counts.values())
    found: frozenset[str] = frozenset()
    for words in FUNCTION_WORDS.values():
        there = [counts.get(word, 0) for word in words]
        if sum(there) - max(there) >= MIN_SHARE * max(total, 1):
            found |= words
    return found
