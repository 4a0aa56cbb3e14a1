"""The sentences around the phrases of demo_phrases.yaml: who asks, who does not, how it is written down.

A frame takes a verb phrase at `{}`. ASKED frames make it the request; NOT_ASKED frames take it away again.
"""

from __future__ import annotations

SLOTS: dict[str, list[str]] = {
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"],
    "time": ["8.40", "9 o'clock", "half past ten", "11.15", "noon", "2 pm", "3.20", "a quarter to five"],
    "period": ["in the morning", "before lunch", "in the afternoon", "after work", "early"],
    "month": ["January", "March", "April", "June", "August", "September", "November"],
    "doctor": ["Dr Okell", "Dr Varga", "Dr Lindqvist", "Dr Mbeki-Hart", "Dr Pell", "Dr Sorrel"],
    "med": [
        "metformin",
        "ramipril",
        "omeprazole",
        "thyroxine",
        "sertraline",
        "naproxen",
        "iron tablets",
        "water pills",
    ],
    "test": ["blood test", "X-ray", "urine test", "heart tracing", "thyroid test", "breathing test", "scan"],
    "part": ["knee", "back", "left ear", "shoulder", "stomach", "wrist", "hip", "eye"],
    "kin": ["daughter", "son", "mother", "husband", "wife", "father", "grandson", "sister"],
    "clinic": ["the eye clinic", "the heart clinic", "the skin clinic", "the knee surgeon", "the pain team"],
    "amount": ["£18", "£24.50", "£40", "£65", "£120", "twelve pounds"],
    "paper": ["medical file", "vaccination record", "last letter from the hospital", "yearly summary"],
}
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "book_appointment": ("move_appointment", "cancel_appointment", "appointment_details", "referral"),
    "move_appointment": ("book_appointment", "cancel_appointment", "appointment_details", "complaint"),
    "cancel_appointment": ("book_appointment", "move_appointment", "appointment_details", "billing"),
    "appointment_details": ("book_appointment", "move_appointment", "cancel_appointment", "test_results"),
    "repeat_prescription": ("prescription_problem", "medicine_question", "book_appointment"),
    "prescription_problem": ("repeat_prescription", "medicine_question", "complaint"),
    "medicine_question": ("repeat_prescription", "prescription_problem", "test_results"),
    "test_results": ("documents", "appointment_details", "referral", "medicine_question"),
    "referral": ("test_results", "documents", "book_appointment"),
    "documents": ("test_results", "referral", "billing"),
    "billing": ("cancel_appointment", "complaint", "documents"),
    "complaint": ("billing", "prescription_problem", "move_appointment", "test_results"),
}
"""Where a second topic mostly comes from: the ones that share words with the label."""

ASKED = (
    "I'd like to {}.",
    "I need to {}.",
    "I want to {}.",
    "I'm writing to {}.",
    "I was hoping to {}.",
    "It would help me a lot to {}.",
    "All I want is to {}.",
    "My one request is to {}.",
    "I would be glad to {}.",
    "I have been trying since {day} to {}.",
    "What would I have to do to {}?",
    "Is this the right place to {}?",
    "Who can help me to {}?",
    "My {kin} says I should write to you to {}.",
)
NOT_ASKED = (
    "I do not need to {}.",
    "I no longer want to {}.",
    "I'm not writing to {}.",
    "There is no need for me to {}.",
    "I wrote on {day} to {}, and that is done.",
    "I had meant to {}, but it has sorted itself out.",
    "It is not that I want to {}.",
    "Somebody at the desk has already helped me to {}.",
    "Your page kept asking if I wanted to {}. I don't.",
    "Your colleague took it that I wanted to {}, and that was a misunderstanding.",
    "Some other time I may want to {}, but not today.",
    "I thought I would have to {} and was glad to hear that I don't.",
    "The last time I wrote, it was to {}; thanks for that.",
    "Everybody tells me to {}, and I won't.",
    "On the phone I could only choose to {}, which is not what this is about.",
    "In {month} you helped me to {}.",
)
JOINED = (
    "I don't want to {no}, I want to {yes}.",
    "This is not to {no} but to {yes}.",
    "I want to {yes}, not to {no}.",
    "Before I {no}, which can wait, I need to {yes}.",
    "I asked to {yes} and was told how to {no}.",
    "I was going to {no}; instead I'd now like to {yes}.",
    "Please don't read this as a wish to {no}: I hope to {yes}.",
    "Having managed to {no}, I now need to {yes}.",
    "I'd sooner {yes} than {no}.",
)
PHONE_ASKED = (
    "Caller wants to {}.",
    "Caller would like to {}.",
    "Rang to {}.",
    "Patient is hoping to {}.",
    "Please ring back, patient needs to {}.",
    "Caller asked how to {}.",
)
PHONE_NOT_ASKED = (
    "Does not want to {}.",
    "Was able to {} on {day}, so not about that.",
    "I offered to help the caller {}; said no.",
    "No longer needs to {}.",
    "First said it was to {}, then took that back.",
    "Another desk has helped the caller to {}.",
)
OPENERS = ("Hello. ", "Hi. ", "Good morning. ", "To the front desk: ", "Sorry to bother you. ", "Hello again. ")
CLOSERS = (" Thank you.", " Thanks a lot.", " Kind regards.", " Many thanks for your help.", " I'm at home all day.")
BRIDGES = ("", "", "", "However: ", "So: ", "But to the point. ", "Now. ", "Different matter: ")
SHORT = {
    "appointment": "appt",
    "please": "pls",
    "prescription": "presc",
    "tomorrow": "tmrw",
    "because": "cos",
    "thank you": "thx",
    "doctor": "dr",
    "results": "rslts",
    "o'clock": "",
}
THIRD_PERSON = (
    (r"\bI'm\b", "they're"),
    (r"\bI've\b", "they've"),
    (r"\bI'd\b", "they'd"),
    (r"\bI am\b", "they are"),
    (r"\bI was\b", "they were"),
    (r"\bI\b", "they"),
    (r"\bmy\b", "their"),
    (r"\bme\b", "them"),
    (r"\byour\b", "our"),
    (r"\byou (are|sent|have for|know|do|gave|already|arranged)\b", r"we \1"),
    (r"\bthan you\b", "than us"),
    (r"\byou\b", "us"),
)
SECOND_LANGUAGE = (
    (r"\bI'd like\b", "I like"),
    (r"\b(?:don't|do not)\b", "not"),
    (r"\bdoesn't\b", "not"),
    (r"\bI'm\b", "I am"),
    (r"\bI've\b", "I have"),
    (r"\bhaven't\b", "have not"),
    (r"\bcan't\b", "can not"),
    (r"\b(?:a|an|the) (?=[a-z])", ""),
)
