# ruff: noqa: E501
"""Makes `tokens.npz` and the two SentencePiece files beside it: what transformers' tokenizers give.

Run once, in an environment of its own (torch is not needed):

    pip install transformers sentencepiece protobuf tokenizers
    python tests/weights/make_tokens.py

SigLIP: a unigram model, SiglipTokenizer. SigLIP 2: BPE with bytes as Gemma's, Siglip2Tokenizer.
"""

import io
import json
import pathlib
import random
import tempfile
import unicodedata

import numpy as np
import sentencepiece
from transformers import AutoTokenizer, SiglipTokenizer

HERE = pathlib.Path(__file__).parent
LENGTHS = {"siglip": 16, "siglip2": 24}
WORDS = [
    "a",
    "the",
    "photo",
    "of",
    "dog",
    "dogs",
    "cat",
    "red",
    "blue",
    "house",
    "houses",
    "on",
    "in",
    "with",
    "tree",
    "apple",
    "12",
    "345",
    "2024",
    "café",
    "naïve",
    "straße",
    "привет",
    "мир",
    "日本",
    "語",
    "σοφος",
    "it's",
    "well-known",
    "e-mail",
    "don't",
    "U.S.",
    "running",
]


def strings() -> list[str]:
    """Awkward texts, at least 200."""
    rng = random.Random(0)
    fixed = [
        "", " ", "   ", "\t", "\n", "\r\n", ".", "...", "!?", "_", "__", "-", "'", '"', "()", "[]{}",
        "a", "A", "a.", ".a", "a b", "a  b", " a", "a ", " a b ", "a\tb", "a\nb", "a\r\nb",
        "a\u00a0b", "a\u2003b", "a\u3000b", "a\u200bb", "a\u200db", "\ufeffa", "a\u2028b", "a\x1cb",
        "a\x85b", "a\x0bb", "a\x0cb", "\u00a0a\u00a0",
        "dog", "DOG", "Dog's", "don't", "it's", "its", "well-known", "e-mail", "U.S.A.", "a/b", "a_b",
        "#hashtag", "@user", "100%", "$5.99", "a & b", "a+b=c", "<b>bold</b>", "{}", "a photo of a {}.",
        "http://example.com/a_b?c=d&e=f#g", "user@example.com", "C:\\dir\\file", "1,000,000", "3.14159",
        "2024-01-01", "12:34", "+1 (555) 123-4567", "1/2", "x^2", "`code`", "~tilde~", "a|b", "a;b:c",
        "café", "cafe\u0301", "naïve", "nai\u0308ve", "Ångström", "A\u030angstro\u0308m", "ﬁne", "ﬂow",
        "straße", "STRASSE", "ẞ", "İstanbul", "ISTANBUL", "ı", "Ǆ", "ǅ", "ΣΊΣΥΦΟΣ", "ΣΑΣ", "σας", "Σ",
        "ΑΣ ΒΣ", "ΑΣ.", "ὈΔΥΣΣΕΎΣ", "Привет, МИР!", "ПРИВЕТ", "Ёлка", "Ѐ", "ＦＵＬＬ ｗｉｄｔｈ", "①②③", "½", "㎏",
        "™", "…", "—", "–", "“quoted”", "‘single’", "«guillemets»", "¿qué?", "¡hola!", "€100", "£5", "¥7",
        "日本語", "日本語のテキスト", "中文字符", "中文，标点。", "한국어", "한국어 텍스트", "ไทย", "हिन्दी", "العربية",
        "עברית", "தமிழ்", "ქართული", "ᲥᲐᲠᲗᲣᲚᲘ", "ᎠᎡ", "ꭰ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𝕬", "𐐀", "𐐨",
        "😀", "😀😀", "a 😀 b", "👨‍👩‍👧‍👦", "👍🏽", "🇩🇪", "❤️", "☃", "♻️ recycle", "emoji😀inside",
        "\u0301", "a\u0301\u0302\u0303", "\u202eabc\u202c", "\ufffd", "\ue000", "\U0010ffff", "\u0378",
        "x" * 100, "ab" * 60, "日" * 80, "😀" * 40, "a " * 100, " " * 50 + "a", "a" + " " * 50,
        "." * 200 + "dog", "\n" * 30 + "dog", "word " * 1000, " ".join(str(i) for i in range(1000)),
        "the photo of dog " * 250, "▁a", "a▁b", "▁", "▁▁", "unk", "pad", "eos", "##s", "[PAD]",
        "the dog", "The Dog", "THE DOG", "thedog", "the-dog", "the, dog", "the.dog", "the\u2014dog",
        "running dogs", "a red house, a blue tree", "photo of 12 dogs in 2024", "12dogs", "dogs12",
    ]  # fmt: skip
    alphabet = "abcXYZ 012 .,;!?_-'\"é日😀ß\tΣ"
    drawn = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(40)]
    drawn += [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(30)]
    forms = [
        unicodedata.normalize(f, t) for t in ("Crème Brûlée", "한글 Å ﬁ") for f in ("NFD", "NFKC")
    ]
    return fixed + drawn + forms


def train(path: pathlib.Path, vocab_size: int, **options) -> None:
    """Writes a small SentencePiece model."""
    rng = random.Random(1)
    text = [" ".join(rng.choices(WORDS, k=8)) for _ in range(400)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=vocab_size,
        hard_vocab_limit=False, minloglevel=2, pad_id=0, eos_id=1, **options,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def siglip2_tokenizer(model: pathlib.Path):
    """Siglip2Tokenizer from a SentencePiece file alone, padded right as the published ones are."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "tokenizer.model").write_bytes(model.read_bytes())
        (pathlib.Path(folder) / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
        settings = {
            "tokenizer_class": "Siglip2Tokenizer", "pad_token": "<pad>", "eos_token": "</s>",
            "bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": False, "add_eos_token": True,
            "padding_side": "right",
        }  # fmt: skip
        (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        return AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Writes the files."""
    first, second = HERE / "siglip.model", HERE / "siglip2.model"
    train(first, 160, model_type="unigram", unk_id=2, bos_id=-1)
    train(
        second, 460, model_type="bpe", bos_id=2, unk_id=3, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True,
    )  # fmt: skip
    texts = strings()
    tokenizers = {"siglip": SiglipTokenizer(str(first)), "siglip2": siglip2_tokenizer(second)}
    ids = {
        name: np.asarray(
            tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTHS[name])[
                "input_ids"
            ],
            np.int16,
        )
        for name, tokenizer in tokenizers.items()
    }
    encoded = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    np.savez_compressed(HERE / "tokens.npz", texts=encoded, **ids)
    print(len(texts), "texts,", {name: value.shape for name, value in ids.items()})


if __name__ == "__main__":
    main()
