#!/usr/bin/env python3
"""Prompts and responses as token ids, for `cohort data`:

    tokenize_examples.py TOKENIZER.json [END] <text.jsonl >ids.jsonl

TOKENIZER.json is a Hugging Face tokenizer. Prompts get the special tokens that it puts before a text (BOS) but none that it puts
behind one, responses get none; END is a token (</s>) that is put behind every response. Needs the package tokenizers."""
import json
import sys

from tokenizers import Tokenizer


def before_text(tokenizer):
    """The special tokens that the tokenizer puts before a text."""
    whole, plain = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    starts = [i for i in range(len(whole) - len(plain) + 1) if whole[i:i + len(plain)] == plain]
    return whole[:starts[0]] if starts else []


def main(path, end=None):
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    first, last = before_text(tokenizer), [] if end is None else [tokenizer.token_to_id(end)]
    if last == [None]:
        sys.exit(f"{path}: has no token {end}")

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            example["prompt"] = first + ids(example["prompt"])
            example["response"] = ids(example["response"]) + last
        except (KeyError, TypeError, ValueError) as error:
            sys.exit(f"line {number}: is no example of text, {{\"prompt\": .., \"response\": ..}}: {error!r}")
        print(json.dumps(example))


if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
main(*sys.argv[1:])
