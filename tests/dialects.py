"""Chat templates in the manner of well-known families, and tokenizers of each kind, all written and trained here.

Import as `from dialects import …`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "system user assistant tool model: what is the weather in Berlin today?",
    'The answer is 42. {"name": "weather", "arguments": {"city": "Berlin"}}\n\n\n',
    "Grüße aus Köln — naïve café 😀 日本語\n  indented\n\tcode = [1, 2, 3]\n",
]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""No generation tags, no tools."""

CHATML_WITHOUT_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
"""It ignores add_generation_prompt."""

LLAMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
    "{% set rule = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set rule = '' %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (rule if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "{{ '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""It writes the reasoning of the last reply only."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (m.content | trim) + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""It ends only the whole conversation with the end-of-sequence token."""

BLANK_LINES = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '### Response:\n\n' + m.content + eos_token + '\n\n' }}"
    "{% else %}{{ '### ' + m.role + ':\n\n' + m.content + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n\n' }}{% endif %}"
)
"""Its prompt ends in white space that a tokenizer's look-ahead divides differently once a word follows."""

FAMILIES = {
    "chatml": CHATML,
    "chatml-without-prompt": CHATML_WITHOUT_PROMPT,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "phi3": PHI3,
    "blank-lines": BLANK_LINES,
}


@cache
def byte_level() -> Any:
    """Return a byte-level BPE tokenizer (GPT-2, Llama-3, Qwen) without BOS of its own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(SENTENCES * 4, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
    return _fast(core)


@cache
def byte_level_with_bos() -> Any:
    """Return the same with a post-processor that begins a text with BOS."""
    core = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return _fast(core)


@cache
def spaced() -> Any:
    """Return a SentencePiece-like BPE tokenizer (Llama-2): ▁ for spaces and in front of a text, bytes as fallback."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    core.train_from_iterator(
        [s[:60] for s in SENTENCES] * 4, trainers.BpeTrainer(vocab_size=700, special_tokens=fallback)
    )
    # As trained, the byte tokens would be special; in SentencePiece models they are ordinary.
    import json

    value = json.loads(core.to_str())
    value["added_tokens"] = [t for t in value["added_tokens"] if t["content"] == "<unk>"]
    return _fast(Tokenizer.from_str(json.dumps(value)), unk_token="<unk>")


@cache
def unigram() -> Any:
    """Return a unigram tokenizer with a metaspace in front of the first word, as T5 and XLM-R have."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = sorted(
        {c for s in SENTENCES for c in s} | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<unk>"], initial_alphabet=letters, show_progress=False
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    return _fast(core, unk_token="<unk>")


@cache
def word_pieces() -> Any:
    """Return a lower-casing WordPiece tokenizer that puts [CLS] and [SEP] around a text, as BERT does."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(
        SENTENCES * 4, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    )
    ids = {t: core.token_to_id(t) for t in ("[CLS]", "[SEP]")}
    core.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


TOKENIZERS = {
    "byte-level": byte_level,
    "byte-level-with-bos": byte_level_with_bos,
    "spaced": spaced,
    "unigram": unigram,
}


def _fast(core: Tokenizer, **names: str) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
        **names,
    )
